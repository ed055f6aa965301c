"""One COCO annotation file of a source, mapped into memory; masks are decoded when asked for.

PACO-LVIS has 600,000 annotations in one file: the segmentations stay undecoded views of it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from calico_model.data.records import CocoCategory, CocoImage, Rle, Segmentation, read_mask
from calico_model.errors import InvalidRecordError
from calico_model.types import BoolMask

_Document = TypeVar("_Document")
_POLYGON_NUMBERS = 6


class PartAnnotation(msgspec.Struct, frozen=True, gc=False):
    """An object or a part of an image, with what the three sources add to COCO.

    Attributes:
        obj_ann_id: PACO: the object a part belongs to; an object names itself.
        part_category_id: ADE20K-Part-234: labels of the object's parts in the label map.
        segmentation: undecoded; null where the file has none, which `CocoFile.mask` refuses.
    """

    id: int
    image_id: int
    category_id: int
    segmentation: msgspec.Raw = msgspec.Raw(b"null")
    area: float | None = None
    iscrowd: int = 0
    obj_ann_id: int | None = None
    part_category_id: tuple[int, ...] = ()


class _WrittenCategory(msgspec.Struct, frozen=True):
    """A category as tools write it: some write null where there is no supercategory."""

    id: int
    name: str
    supercategory: str | None = None


class _Content(msgspec.Struct, frozen=True):
    images: list[CocoImage]
    annotations: list[PartAnnotation]
    categories: list[_WrittenCategory]


class Problems:
    """What is broken in a source: raised at once, or listed once each and passed over."""

    def __init__(self, *, skip: bool) -> None:
        self._skip = skip
        self._messages: dict[str, None] = {}

    def add(self, message: str, cause: Exception | None = None) -> None:
        """Notes a problem.

        Raises:
            InvalidRecordError: with the message, unless problems are skipped.
        """
        if not self._skip:
            raise InvalidRecordError(message) from cause
        self._messages[message] = None

    @property
    def messages(self) -> tuple[str, ...]:
        """Every problem that was passed over, in order."""
        return tuple(self._messages)


class CocoFile:
    """Images, categories and annotations by id.

    Attributes:
        name: of the file, for messages.
        images, categories, annotations: by id, in file order.

    Raises:
        InvalidRecordError: the file is missing, no JSON, truncated, or repeats an id.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        content = decode_file(path, _Content)
        self.images = _by_id(f"{self.name}: images", content.images)
        categories = [CocoCategory(c.id, c.name, c.supercategory or "") for c in content.categories]
        self.categories = _by_id(f"{self.name}: categories", categories)
        self.annotations = _by_id(f"{self.name}: annotations", content.annotations)

    def sound_annotations(self, problems: Problems) -> list[PartAnnotation]:
        """Returns the annotations whose image, category and object exist, without crowds."""
        sound = []
        for annotation in self.annotations.values():
            message = self._dangling(annotation)
            if message is not None:
                problems.add(message)
            elif not annotation.iscrowd:
                sound.append(annotation)
        return sound

    def check(self, key: str, ann_id: int, image_id: int) -> None:
        """Raises InvalidRecordError unless the annotation exists and is of the image."""
        annotation = self.annotations.get(ann_id)
        if annotation is None:
            raise InvalidRecordError(f"{key}: no annotation {ann_id} in {self.name}")
        if annotation.image_id != image_id:
            raise InvalidRecordError(
                f"{key}: annotation {ann_id} belongs to image {annotation.image_id}, "
                f"expected image {image_id}"
            )

    def mask(self, ann_id: int) -> BoolMask:
        """Returns one mask, (H, W) bool.

        Polygons of fewer than three points, which PartImageNet has, are left out.

        Raises:
            InvalidRecordError: a broken or empty mask, or one of another size than its image.
        """
        annotation = self.annotations[ann_id]
        where = f"{self.name}: annotation {ann_id}: segmentation"
        image = self.images.get(annotation.image_id)
        if image is None:
            raise InvalidRecordError(
                f"{self.name}: annotation {ann_id}: image_id: no image {annotation.image_id}"
            )
        try:
            shape = msgspec.json.decode(annotation.segmentation, type=Segmentation)
        except msgspec.DecodeError as error:
            raise InvalidRecordError(f"{where}: {error}") from error
        if not isinstance(shape, Rle):
            shape = tuple(polygon for polygon in shape if len(polygon) >= _POLYGON_NUMBERS)
        return read_mask(shape, (image.height, image.width), where)

    def union(self, ann_ids: Iterable[int]) -> BoolMask:
        """Returns several masks of one image as one; errors as in `mask`."""
        union: BoolMask = np.logical_or.reduce([self.mask(ann_id) for ann_id in ann_ids])
        return union

    def _dangling(self, annotation: PartAnnotation) -> str | None:
        """Returns what an annotation refers to in vain."""
        for field, found, known in (
            ("image_id", annotation.image_id, self.images),
            ("category_id", annotation.category_id, self.categories),
            ("obj_ann_id", annotation.obj_ann_id, self.annotations),
        ):
            if found is not None and found not in known:
                return (
                    f"{self.name}: annotation {annotation.id}: {field}: {found} is not in the file"
                )
        return None


def decode_file(path: Path, kind: type[_Document]) -> _Document:
    """Decodes a JSON file through a memory map, which `msgspec.Raw` fields keep open.

    Raises:
        InvalidRecordError: the file is missing, empty, no JSON, or not of that type.
    """
    try:
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return msgspec.json.decode(content, type=kind)
    except (OSError, ValueError) as error:
        if isinstance(error, msgspec.DecodeError):
            raise InvalidRecordError(f"{path.name}: {error}") from error
        raise InvalidRecordError(
            f"{path.name}: expected a readable JSON file in {path.parent}"
        ) from error


_Item = TypeVar("_Item", CocoImage, CocoCategory, PartAnnotation)


def _by_id(key: str, items: Sequence[_Item]) -> dict[int, _Item]:
    by_id: dict[int, _Item] = {}
    for index, item in enumerate(items):
        if item.id in by_id:
            raise InvalidRecordError(f"{key}[{index}].id: {item.id} is there twice, expected once")
        by_id[item.id] = item
    return by_id
