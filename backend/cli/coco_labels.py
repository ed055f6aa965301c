"""Masks of a COCO file as regions of a project's labels, for photographs that are imported.

A category is a part and its supercategory the object; `(whole object)`, a category of the
supercategory "object", and a category that others name as theirs are objects. Masks of one name in
one image are one region, as everywhere in this product.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

import numpy as np

from backend.cli.photo_survey import Photograph
from backend.errors import SettingsError
from backend.label_schema import LabelSchema
from backend.label_studio.label_set import closed_labels, match_label
from backend.label_studio.result import RenderedPrediction, render_prediction
from calico_model.data.coco_parts import WHOLE
from calico_model.data.mixedparts.coco import CocoFile
from calico_model.errors import InvalidRecordError
from calico_model.types import BoolMask, GroupPrediction, PartMask, RegionKind

VERSION = "imported labels"
_SIDE = re.compile(r"\b(left|right) ", re.IGNORECASE)


@dataclass(frozen=True)
class _Name:
    """What a category is called in the project."""

    label: str
    is_object: bool
    owner: str | None


class CocoLabels:
    """The masks of a COCO file, by photograph.

    Args:
        path: COCO instances; segmentations are polygons or run lengths.
        names: of the photographs, relative to their folder.
        schema: the project's labeling config.

    Attributes:
        schema: the project's labeling config.
        unknown: labels of the file, on these photographs, that the config lacks.
        problems: masks that cannot be used, and why; grows while labels are rendered.
        photographs: how many of the folder the file names.
        masks: annotations of these photographs that are read.
        crowds: annotations of these photographs that outline a crowd (iscrowd), and are not read.
        without_image: annotations whose image_id is not in the file, and are not read.

    Raises:
        InvalidRecordError: the file is missing or broken.
        SettingsError: it names none of the photographs.
    """

    def __init__(self, path: Path, names: Sequence[str], schema: LabelSchema) -> None:
        self._file, self.schema = CocoFile(path), schema
        self.problems: list[str] = []
        self._images_of = self._match(names)
        if not self._images_of:
            raise SettingsError(
                f"--labels: expected file_name of photographs in the folder, {path.name} names "
                f"none of them, for example {self._example()!r}"
            )
        self._annotations: dict[int, list[int]] = defaultdict(list)
        self.photographs = len(self._images_of)
        self.masks = self.crowds = self.without_image = 0
        self._sort_annotations()
        self._names, self.unknown = self._translate()

    def has(self, name: str) -> bool:
        """Whether a photograph has masks that the project can show."""
        return any(self._name_of(one) is not None for one in self._ids(name))

    def render(self, group: Sequence[Photograph | None]) -> RenderedPrediction:
        """Writes the masks of one group.

        Args:
            group: its photographs in order; None for one that is not in this folder.
        """
        masks = [self._masks(one) if one is not None else {} for one in group]
        counts = Counter(name.label for by_name in masks for name in by_name)
        parts = [
            _region(place, name, mask, is_common=len(group) == 1 or counts[name.label] > 1)
            for place, by_name in enumerate(masks)
            for name, mask in by_name.items()
        ]
        parts.sort(key=lambda part: part.kind is not RegionKind.COMMON_OBJECT)
        sizes = [(0, 0) if one is None else one.facts.size_hw for one in group]
        prediction = GroupPrediction(tuple(parts), VERSION)
        return render_prediction(prediction, self.schema, sizes_hw=sizes)

    def _sort_annotations(self) -> None:
        """Keeps the annotations of the photographs by image, and counts what is not read."""
        wanted = {image_id for ids in self._images_of.values() for image_id in ids}
        for annotation in self._file.annotations.values():
            if annotation.image_id not in self._file.images:
                self.without_image += 1
            elif annotation.image_id in wanted and annotation.iscrowd:
                self.crowds += 1
            elif annotation.image_id in wanted:
                self.masks += 1
                self._annotations[annotation.image_id].append(annotation.id)

    def _match(self, names: Sequence[str]) -> dict[str, Sequence[int]]:
        """Image ids by photograph: by path, or by a file name that is there once."""
        by_path: dict[str, list[int]] = defaultdict(list)
        for image in self._file.images.values():  # merged files may list a photograph twice
            by_path[PurePosixPath(image.file_name).as_posix()].append(image.id)
        paths_of: dict[str, list[str]] = defaultdict(list)
        for path in by_path:
            paths_of[PurePath(path).name].append(path)
        times = Counter(PurePath(name).name for name in names)
        found: dict[str, Sequence[int]] = {}
        for name in names:
            file = PurePath(name).name
            posix = PurePath(name).as_posix()
            if posix in by_path:
                found[name] = by_path[posix]
            elif len(paths_of[file]) == 1 and times[file] == 1:
                found[name] = by_path[paths_of[file][0]]
        return found

    def _example(self) -> str:
        return next((image.file_name for image in self._file.images.values()), "")

    def _translate(self) -> tuple[Mapping[int, _Name], tuple[str, ...]]:
        """Returns the project's name of every used category, and the labels it lacks."""
        owners = {category.supercategory for category in self._file.categories.values()}
        names, unknown = {}, dict[str, None]()
        ids = [one for members in self._annotations.values() for one in members]
        used = {self._file.annotations[one].category_id for one in ids}
        for category_id in sorted(used):
            category = self._file.categories.get(category_id)
            if category is None:
                self.problems.append(f"category {category_id} is not in the file")
                continue
            owner = category.supercategory
            is_object = category.name == WHOLE or owner == "object" or category.name in owners
            text = owner if category.name == WHOLE else category.name
            label = self._label_of(text)
            if not text.strip():
                self.problems.append(f"category {category_id} has no name")
            elif label is None:
                unknown[text] = None
            else:
                is_part_of = None if is_object or owner in ("", "part") else owner
                names[category_id] = _Name(label, is_object, is_part_of)
        return names, tuple(unknown)

    def _label_of(self, text: str) -> str | None:
        """The config's label of a name, also without left and right; None if it lacks it."""
        plain = text.replace("_", " ").strip()
        if self.schema.name is None or self.schema.name.is_open:
            return plain or None
        offered = closed_labels(self.schema)
        tries = (text, plain, _SIDE.sub("", plain))
        return next(filter(None, (match_label(one, offered) for one in tries)), None)

    def _ids(self, name: str) -> Sequence[int]:
        image_ids = self._images_of.get(name, ())
        return [one for image_id in image_ids for one in self._annotations.get(image_id, ())]

    def _name_of(self, annotation_id: int) -> _Name | None:
        return self._names.get(self._file.annotations[annotation_id].category_id)

    def _masks(self, photograph: Photograph) -> dict[_Name, BoolMask]:
        """One mask per name, in the size of the photograph."""
        masks: dict[_Name, BoolMask] = {}
        for annotation_id in self._ids(photograph.name):
            name = self._name_of(annotation_id)
            if name is None:
                continue
            try:
                mask = self._file.mask(annotation_id)
            except InvalidRecordError as error:
                self.problems.append(str(error))
                continue
            if mask.shape != photograph.facts.size_hw:
                height, width = photograph.facts.size_hw
                self.problems.append(
                    f"{photograph.name}: labeled at {mask.shape[1]} x {mask.shape[0]} pixels, "
                    f"the photograph has {width} x {height}"
                )
                return {}
            masks[name] = np.logical_or(masks[name], mask) if name in masks else mask
        return masks


def _region(place: int, name: _Name, mask: BoolMask, *, is_common: bool) -> PartMask:
    if name.is_object:
        part_id = f"object:{name.label}"
        return PartMask(place, RegionKind.COMMON_OBJECT, name.label, mask, part_id=part_id)
    if is_common:
        kind, shared = RegionKind.COMMON_PART, f"part:{name.label}"
        return PartMask(place, kind, name.label, mask, name.owner, shared)
    return PartMask(place, RegionKind.UNIQUE_PART, name.label, mask, name.owner)
