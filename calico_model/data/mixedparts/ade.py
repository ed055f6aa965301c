"""ADE20K-Part-234 (OV-PARTS): objects in a COCO file, parts as labels of one PNG per image.

A part is where the map holds its label inside the object; every label belongs to one class of
objects. (OpenRobotLab/OV_PARTS at 13e1678: README.md, register_ade_part_234.py.)
"""

from __future__ import annotations

import tomllib
from collections import defaultdict
from functools import lru_cache
from importlib import resources
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from calico_model.data.mixedparts.classes import ObjectClass, SourcePlan
from calico_model.data.mixedparts.coco import CocoFile, Problems
from calico_model.data.mixedparts.source import (
    AnnotatedObject,
    AnnotatedSource,
    Census,
    DatasetName,
    SourceSplit,
    area_share,
    first_file,
)
from calico_model.data.records import Ids
from calico_model.errors import InvalidRecordError
from calico_model.types import BoolMask

_MAPS_KEPT = 4


class AdePart234(AnnotatedSource):
    """One split of ADE20K-Part-234.

    Args:
        folder: holds `ade20k_instance_{split}.json`, `images/` and
            `annotations_detectron2_part/`, the latter with `training/` and `validation/`.
        split: there are two; test reads the files of val, as MixedParts does.
    """

    dataset_name = DatasetName.ADE20K_PART_234
    has_part_labels = True

    def __init__(self, folder: Path, split: SourceSplit) -> None:
        file_split = SourceSplit.TRAIN if split is SourceSplit.TRAIN else SourceSplit.VAL
        stem = f"ade20k_instance_{file_split}"
        names = (f"{stem}_mixed_parts.json", f"{stem}.json")
        super().__init__(CocoFile(first_file([folder / n for n in names], "ADE20K-Part-234")))
        subfolder = "training" if split is SourceSplit.TRAIN else "validation"
        self._images_folder = folder / "images" / subfolder
        self._maps_folder = folder / "annotations_detectron2_part" / subfolder
        self._label_map = lru_cache(maxsize=_MAPS_KEPT)(self._read_label_map)

    def image_path(self, image_id: int) -> Path:
        """Returns e.g. images/training/ADE_train_00000001.jpg."""
        return self._images_folder / self.objects.images[image_id].file_name

    def check_part(self, key: str, ann_id: int, image_id: int) -> None:
        """Raises InvalidRecordError: parts have labels here, no annotations."""
        raise InvalidRecordError(
            f"{key}: annotation {ann_id} of image {image_id}: expected part_cat_ids, "
            f"{self.dataset_name} has no part annotations"
        )

    def check_part_label(self, key: str, label_id: int, image_id: int) -> None:
        """Raises InvalidRecordError unless it is one of the 234 labels."""
        if not 0 <= label_id < len(part_labels()):
            raise InvalidRecordError(
                f"{key}: label {label_id} of image {image_id}: "
                f"expected 0 to {len(part_labels()) - 1}"
            )

    def part_mask(self, ann_ids: Ids) -> BoolMask:
        """Never called: `check_part` refuses annotations."""
        raise AssertionError(f"{self.dataset_name} has no part annotations: {ann_ids}")

    def labeled_mask(self, image_id: int, label_ids: Ids, inside: BoolMask) -> BoolMask:
        """Returns where the label map holds one of the labels, inside an object.

        Raises:
            InvalidRecordError: the map is broken or of another size, or nothing is there.
        """
        part = self.find_part(image_id, label_ids, inside)
        if part is None:
            raise InvalidRecordError(
                f"{self._map_path(image_id)}: expected labels {list(label_ids)} "
                "inside the object, got none"
            )
        return part[1]

    def find_part(self, image_id: int, ids: Ids, inside: BoolMask) -> tuple[Ids, BoolMask] | None:
        """Returns the labels that show inside an object, and where they show."""
        mask = np.isin(self._label_map(image_id), ids) & inside
        showing = np.unique(self._label_map(image_id)[mask])
        return (tuple(n for n in ids if n in showing), mask) if mask.any() else None

    def census(self, plan: SourcePlan, problems: Problems) -> Census:
        """Reads all annotations, without masks; see `AnnotatedSource.census`.

        Where an annotation does not list its labels, all labels of its class may be there.
        """
        by_class: dict[str, dict[str, Ids]] = defaultdict(dict)
        for label_id, (owner, part) in enumerate(part_labels()):
            name = plan.part_name(owner, part)
            if name is not None:
                by_class[owner][name] = (*by_class[owner].get(name, ()), label_id)
        instances: dict[int, list[AnnotatedObject]] = defaultdict(list)
        for annotation in self.objects.sound_annotations(problems):
            image = self.objects.images[annotation.image_id]
            label = self.objects.categories[annotation.category_id].name.strip().lower()
            listed = annotation.part_category_id
            parts = {
                name: kept
                for name, ids in by_class.get(label, {}).items()
                if (kept := tuple(n for n in ids if not listed or n in listed))
            }
            share = area_share(annotation.area, image)
            instances[image.id].append(AnnotatedObject(annotation.id, label, share, parts))
        return Census(
            instances,
            {
                label: ObjectClass(frozenset(by_class.get(label, {})), frozenset({label}))
                for c in self.objects.categories.values()
                for label in [c.name.strip().lower()]
            },
        )

    def _check_files(self, image_id: int) -> None:
        super()._check_files(image_id)
        if not self._map_path(image_id).is_file():
            raise InvalidRecordError(
                f"{self.objects.name}: image {image_id}: no label map {self._map_path(image_id)}"
            )

    def _map_path(self, image_id: int) -> Path:
        name = Path(self.objects.images[image_id].file_name).with_suffix(".png")
        return self._maps_folder / name

    def _read_label_map(self, image_id: int) -> NDArray[np.uint16]:
        path, image = self._map_path(image_id), self.objects.images[image_id]
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if labels is None or labels.ndim != 2:
            raise InvalidRecordError(f"{path}: expected a grey PNG of part labels")
        if labels.shape != (image.height, image.width):
            raise InvalidRecordError(
                f"{path}: expected {image.width} x {image.height} px as in {self.objects.name}, "
                f"got {labels.shape[1]} x {labels.shape[0]}"
            )
        return labels.astype(np.uint16)


@lru_cache(maxsize=1)
def part_labels() -> tuple[tuple[str, str], ...]:
    """Returns object and part name of each label, by number."""
    text = resources.files(__package__).joinpath("ade_labels.toml").read_text("utf-8")
    table = msgspec.convert(tomllib.loads(text), type=dict[str, tuple[str, ...]])
    return tuple((owner, part) for owner, parts in table.items() for part in parts)
