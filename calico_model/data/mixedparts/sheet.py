"""What shows in an image of a source, and how much of it, measured on its masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from calico_model.data.mixedparts.coco import Problems
from calico_model.data.mixedparts.source import AnnotatedObject, AnnotatedSource, Census
from calico_model.data.records import Ids
from calico_model.errors import InvalidRecordError
from calico_model.types import BoolMask

_KEPT = 4096


@dataclass(frozen=True)
class SheetRegion:
    """Ids of what makes a region, and its share of the image's area."""

    ids: Ids
    share: float


@dataclass(frozen=True)
class ComparedClass:
    """The objects of one class in one image whose parts are known.

    Attributes:
        region: all of them.
        visible: their parts that are large enough, by name.
        known: names of all parts annotated on them.
    """

    region: SheetRegion
    visible: Mapping[str, SheetRegion]
    known: frozenset[str]


class Sheets:
    """Measures images when asked, and remembers.

    Args:
        source: gives the masks.
        census: says who is in which image.
        min_object_share: smallest share of the image at which an object counts.
        min_part_share: the same for a part of the compared objects.
        problems: told about images and masks that cannot be read; they do not count.
    """

    def __init__(
        self,
        source: AnnotatedSource,
        census: Census,
        *,
        min_object_share: float,
        min_part_share: float,
        problems: Problems,
    ) -> None:
        self._source = source
        self._census = census
        self._min_object_share = min_object_share
        self._min_part_share = min_part_share
        self._problems = problems
        self.is_readable = lru_cache(maxsize=None)(self._is_readable)
        self.objects = lru_cache(maxsize=_KEPT)(self._objects)
        self.compared = lru_cache(maxsize=_KEPT)(self._compared)

    def images_with(self, label: str, *, with_parts: bool) -> tuple[int, ...]:
        """Returns images that may show objects of a class, by what the annotations say."""
        return tuple(
            image_id
            for image_id, instances in self._census.instances.items()
            if any(self._may_show(i, label, with_parts) for i in instances)
        )

    def _may_show(self, instance: AnnotatedObject, label: str, with_parts: bool) -> bool:
        is_large = instance.area_share is None or instance.area_share >= self._min_object_share
        return instance.label == label and is_large and (bool(instance.parts) or not with_parts)

    def _is_readable(self, image_id: int) -> bool:
        """Returns whether the image is there and has the annotated size."""
        try:
            self._source.check_image(str(self._source.dataset_name), image_id)
            self._source.check_image_size(image_id)
        except InvalidRecordError as error:
            self._problems.add(str(error), error)
            return False
        return True

    def _objects(self, image_id: int) -> Mapping[str, SheetRegion]:
        """Returns the classes that show in an image, all large enough instances together."""
        masks: dict[str, list[tuple[int, BoolMask]]] = {}
        for instance in self._census.instances.get(image_id, ()):
            mask = self._object_mask(instance)
            if mask is not None:
                masks.setdefault(instance.label, []).append((instance.ann_id, mask))
        return {label: _union(found) for label, found in masks.items()}

    def _compared(self, image_id: int, label: str) -> ComparedClass | None:
        """Returns the large enough objects of a class whose parts are known, with their parts."""
        objects: list[tuple[int, BoolMask]] = []
        ids: dict[str, dict[int, None]] = {}
        for instance in self._census.instances.get(image_id, ()):
            if instance.label != label or not instance.parts:
                continue
            mask = self._object_mask(instance)
            if mask is None:
                continue
            objects.append((instance.ann_id, mask))
            for name, part_ids in instance.parts.items():
                ids.setdefault(name, {}).update(dict.fromkeys(part_ids))
        if not objects:
            return None
        inside: BoolMask = np.logical_or.reduce([mask for _, mask in objects])
        parts = {
            name: self._part(image_id, tuple(part_ids), inside) for name, part_ids in ids.items()
        }
        known = {name: region for name, region in parts.items() if region is not None}
        visible = {n: r for n, r in known.items() if r.share >= self._min_part_share}
        return ComparedClass(_union(objects), visible, frozenset(known)) if known else None

    def _object_mask(self, instance: AnnotatedObject) -> BoolMask | None:
        try:
            mask = self._source.object_mask((instance.ann_id,))
        except InvalidRecordError as error:
            self._problems.add(str(error), error)
            return None
        return mask if mask.mean() >= self._min_object_share else None

    def _part(self, image_id: int, ids: Ids, inside: BoolMask) -> SheetRegion | None:
        try:
            part = self._source.find_part(image_id, ids, inside)
        except InvalidRecordError as error:
            self._problems.add(str(error), error)
            return None
        return None if part is None else SheetRegion(part[0], float(part[1].mean()))


def _union(masks: list[tuple[int, BoolMask]]) -> SheetRegion:
    union: BoolMask = np.logical_or.reduce([mask for _, mask in masks])
    return SheetRegion(tuple(ann_id for ann_id, _ in masks), float(union.mean()))
