"""COCO part data as labeled groups: a category is a part, its supercategory the object.

A category `(whole object)` is the object itself; without one the object is the union of its parts.
Groups show the same object class. Images and masks are read when a group is asked for.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import cv2
import msgspec
import numpy as np
from PIL import Image

from calico_model.data.comparison import partition
from calico_model.data.mixedparts.coco import CocoFile
from calico_model.data.records import encode_mask
from calico_model.errors import InvalidRecordError
from calico_model.types import (
    MAX_GROUP_SIZE,
    BoolMask,
    ComparedObject,
    ImageGroup,
    LabeledGroup,
    PartMask,
    RegionKind,
    RgbImage,
)

ANNOTATIONS_FILE, IMAGES_FOLDER = "annotations.json", "images"
WHOLE = "(whole object)"
_UNNAMED = "object"
_SIDE = re.compile(r"\b(left|right) ")


@dataclass(frozen=True)
class CocoPlan:
    """How images become groups.

    Attributes:
        sizes: smallest and largest number of images per group.
        seed: of the order.
        merge_sides: drop left and right from the names of parts.
        side: longest side of an image in pixels; larger ones are made smaller.
        least_part, least_object: share of an image from which a part, and an object, counts.
    """

    sizes: tuple[int, int] = (2, 2)
    seed: int = 0
    merge_sides: bool = True
    side: int = 512
    least_part: float = 0.002
    least_object: float = 0.02

    def __post_init__(self) -> None:
        low, high = self.sizes
        if not 1 <= low <= high <= MAX_GROUP_SIZE:
            raise InvalidRecordError(
                f"group size: expected 1 to {MAX_GROUP_SIZE}, as N or N-M, got {low}-{high}"
            )


class CocoParts(Sequence[LabeledGroup]):
    """Groups of a COCO file with parts.

    Args:
        annotations: COCO instances; segmentations are polygons or run lengths.
        images: folder of the image files.
        plan: how images become groups.

    Raises:
        InvalidRecordError: a file is missing or broken, or no image shows an object with parts.
    """

    def __init__(self, annotations: Path, images: Path, plan: CocoPlan | None = None) -> None:
        self._file, self._images, self._plan = CocoFile(annotations), images, plan or CocoPlan()
        self._by_image: dict[int, list[int]] = defaultdict(list)
        for annotation in self._file.annotations.values():
            if not annotation.iscrowd:
                self._by_image[annotation.image_id].append(annotation.id)
        rng = random.Random(self._plan.seed)
        by_class: dict[str, list[int]] = defaultdict(list)
        order = sorted(self._by_image)
        rng.shuffle(order)
        for image_id in order:
            if image_id in self._file.images and (images / self._name(image_id)).is_file():
                main_class = self._main_class(image_id)
                if main_class is not None:
                    by_class[main_class].append(image_id)
        self._groups: list[tuple[str, tuple[int, ...]]] = []
        low, high = self._plan.sizes
        for name, rows in sorted(by_class.items()):
            while len(rows) >= low:
                count = min(len(rows), rng.randint(low, high))
                self._groups.append((name, tuple(rows[:count])))
                rows = rows[count:]
        rng.shuffle(self._groups)
        if not self._groups:
            raise InvalidRecordError(
                f"{annotations.name}: expected images of one object class with parts in "
                f"{images}, found no group of {low}"
            )

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def object_classes(self) -> tuple[str, ...]:
        """Object class of every group, without reading its images."""
        return tuple(name for name, _ in self._groups)

    @overload
    def __getitem__(self, index: int) -> LabeledGroup: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LabeledGroup]: ...
    def __getitem__(self, index: int | slice) -> LabeledGroup | Sequence[LabeledGroup]:
        """Reads one group, or several."""
        if isinstance(index, slice):
            return [self._load(k) for k in range(*index.indices(len(self)))]
        return self._load(range(len(self))[index])

    def _image(self, image_id: int) -> RgbImage:
        """Reads one image, made smaller where it is too large."""
        known = self._file.images[image_id]
        pixels = cv2.imread(str(self._images / self._name(image_id)), cv2.IMREAD_COLOR)
        if pixels is None or pixels.shape[:2] != (known.height, known.width):
            raise InvalidRecordError(
                f"{self._file.name}: image {image_id}: expected a readable image of "
                f"{known.width} x {known.height} pixels at {self._name(image_id)}"
            )
        image: RgbImage = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
        height, width = self._scaled(image.shape[:2])
        if (height, width) == image.shape[:2]:
            return image
        scaled = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        return np.asarray(scaled, np.uint8)

    def _load(self, index: int) -> LabeledGroup:
        name, ids = self._groups[index]
        images = tuple(self._image(image_id) for image_id in ids)
        masks = [
            self._masks(image_id, name, image.shape[:2])
            for image_id, image in zip(ids, images, strict=True)
        ]
        visible = [sorted(part for part in by_name if part != WHOLE) for by_name in masks]
        common, unique = partition(visible)
        kind_of = dict.fromkeys(common, RegionKind.COMMON_PART)
        parts = [
            PartMask(k, RegionKind.COMMON_OBJECT, name, by_name[WHOLE], part_id=f"object:{name}")
            for k, by_name in enumerate(masks)
        ]
        for k, by_name in enumerate(masks):
            for part in visible[k]:
                kind = kind_of.get(part)
                if kind is None and part in unique[k]:
                    kind = RegionKind.UNIQUE_PART
                if kind is not None:
                    shared = f"part:{part}" if kind is RegionKind.COMMON_PART else None
                    parts.append(PartMask(k, kind, part, by_name[part], name, shared))
        objects = tuple(ComparedObject(k, name, by_name[WHOLE]) for k, by_name in enumerate(masks))
        group = ImageGroup(images, tuple(self._name(image_id) for image_id in ids))
        return LabeledGroup(group, tuple(parts), objects)

    def _masks(self, image_id: int, name: str, size_hw: Sequence[int]) -> dict[str, BoolMask]:
        """Part name -> mask of one object in the size its image is read in, and the whole of it."""
        several: dict[str, BoolMask] = {}
        for annotation_id in self._by_image[image_id]:
            object_name, part = self._names(annotation_id)
            if object_name != name:
                continue
            mask = self._resized(self._file.mask(annotation_id), size_hw)
            several[part] = several[part] | mask if part in several else mask
        whole: BoolMask = np.logical_or.reduce(list(several.values()))
        least = self._plan.least_part
        kept = {k: m for k, m in several.items() if k != WHOLE and m.mean() >= least}
        return kept | {WHOLE: whole}

    def _main_class(self, image_id: int) -> str | None:
        """The object class with most parts that is large enough, None without any."""
        image = self._file.images[image_id]
        size_hw = self._scaled((image.height, image.width))
        best: tuple[int, str] | None = None
        for name in sorted(
            {self._names(annotation_id)[0] for annotation_id in self._by_image[image_id]}
        ):
            masks = self._masks(image_id, name, size_hw)
            parts = len(masks) - 1
            if masks[WHOLE].mean() < self._plan.least_object or not parts:
                continue
            if best is None or parts > best[0]:
                best = parts, name
        return None if best is None else best[1]

    def _names(self, annotation_id: int) -> tuple[str, str]:
        """Object and part of an annotation."""
        annotation = self._file.annotations[annotation_id]
        category = self._file.categories.get(annotation.category_id)
        if category is None:
            raise InvalidRecordError(
                f"{self._file.name}: annotation {annotation_id}: category_id: "
                f"{annotation.category_id} is not in the file"
            )
        if category.name == WHOLE:
            return category.supercategory or _UNNAMED, WHOLE
        part = category.name.replace("_", " ")
        part = _SIDE.sub("", part) if self._plan.merge_sides else part
        return category.supercategory or _UNNAMED, part

    def _name(self, image_id: int) -> str:
        return Path(self._file.images[image_id].file_name).name

    def _scaled(self, size_hw: Sequence[int]) -> tuple[int, int]:
        scale = min(1.0, self._plan.side / max(size_hw))
        height, width = (max(1, round(scale * length)) for length in size_hw)
        return height, width

    @staticmethod
    def _resized(mask: BoolMask, size_hw: Sequence[int]) -> BoolMask:
        if mask.shape == tuple(size_hw):
            return mask
        size = size_hw[1], size_hw[0]
        resized = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        return np.asarray(resized) >= 0.5


def write_coco(groups: Sequence[LabeledGroup], folder: Path) -> None:
    """Writes groups as one COCO file with their images, in order.

    A category's supercategory is "part" or "object", as in the records of this project.

    Args:
        groups: to write.
        folder: must not exist.
    """
    (folder / IMAGES_FOLDER).mkdir(parents=True)
    categories: dict[tuple[str, str], int] = {}
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, labeled in enumerate(groups):
        for index, image in enumerate(labeled.group.images):
            name = f"{number:04d}_{index}.png"
            Image.fromarray(image).save(folder / IMAGES_FOLDER / name, compress_level=1)
            height, width = image.shape[:2]
            images.append(
                {"id": len(images) + 1, "file_name": name, "width": width, "height": height}
            )
            for part in (one for one in labeled.parts if one.image_index == index):
                above = "object" if part.kind is RegionKind.COMMON_OBJECT else "part"
                category = categories.setdefault((above, part.label), len(categories) + 1)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": len(images),
                        "category_id": category,
                        "segmentation": encode_mask(part.mask),
                        "area": int(np.count_nonzero(part.mask)),
                        "iscrowd": 0,
                    }
                )
    named = [
        {"id": number, "name": name, "supercategory": above}
        for (above, name), number in categories.items()
    ]
    document = {"images": images, "annotations": annotations, "categories": named}
    (folder / ANNOTATIONS_FILE).write_bytes(msgspec.json.encode(document))
