"""The truth of drawn scenes: as masks in memory, or as records and annotations to write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from calico_model.data.catalogue import CATEGORIES, PART_NAMES
from calico_model.data.comparison import compare, visible_parts
from calico_model.data.records import (
    CocoAnnotation,
    CocoCategory,
    CocoImage,
    CommonObject,
    CommonPart,
    ComparedPair,
    Record,
    UniqueParts,
    encode_mask,
)
from calico_model.data.scene import Scene
from calico_model.masks import extent_of
from calico_model.types import (
    MAX_GROUP_SIZE,
    BoolMask,
    ComparedObject,
    ImageGroup,
    LabeledGroup,
    PartMask,
    RegionKind,
)

_MASKS_PER_IMAGE = 100
_FIRST_PART_CATEGORY = 1001


@dataclass(frozen=True)
class GroupDocument:
    """The entries of one group in the two JSON files."""

    images: tuple[CocoImage, ...]
    annotations: tuple[CocoAnnotation, ...]
    records: tuple[Record, ...]


def labeled_group(scenes: Sequence[Scene], ids: Sequence[str] | None = None) -> LabeledGroup:
    """Makes a labeled group of scenes.

    Args:
        scenes: one to eight.
        ids: a name per image; "image1", "image2", ... if None.
    """
    names = tuple(ids) if ids is not None else tuple(f"image{n + 1}" for n in range(len(scenes)))
    comparison = compare(scenes)
    parts = [
        PartMask(
            n,
            RegionKind.COMMON_OBJECT,
            label,
            category_mask(scene, label),
            part_id=f"{RegionKind.COMMON_OBJECT}/{label}",
        )
        for label in comparison.common_objects
        for n, scene in enumerate(scenes)
    ]
    parts += [
        PartMask(
            n,
            RegionKind.COMMON_PART,
            label,
            part_mask(scene, label),
            comparison.mains[n],
            f"{RegionKind.COMMON_PART}/{label}",
        )
        for label in comparison.common_parts
        for n, scene in enumerate(scenes)
    ]
    parts += [
        PartMask(n, RegionKind.UNIQUE_PART, label, part_mask(scene, label), comparison.mains[n])
        for n, scene in enumerate(scenes)
        for label in comparison.unique_parts[n]
    ]
    objects = tuple(
        ComparedObject(n, scene.categories[0], scene.object_map == 1)
        for n, scene in enumerate(scenes)
    )
    return LabeledGroup(ImageGroup(tuple(s.image for s in scenes), names), tuple(parts), objects)


def category_mask(scene: Scene, label: str) -> BoolMask:
    """Returns the visible pixels of all objects of a category, (S, S) bool."""
    numbers = [n for n, name in enumerate(scene.categories, start=1) if name == label]
    return np.isin(scene.object_map, numbers)


def part_mask(scene: Scene, label: str) -> BoolMask:
    """Returns the visible pixels of a part of the main object, (S, S) bool."""
    code = PART_NAMES.index(label) + 1
    mask: BoolMask = (scene.object_map == 1) & (scene.part_map == code)
    return mask


def name_tables() -> tuple[CocoCategory, ...]:
    """Returns the COCO categories: objects from 1, parts from 1001."""
    objects = [CocoCategory(n, name, "object") for n, name in enumerate(CATEGORIES, start=1)]
    parts = [
        CocoCategory(n, name, "part") for n, name in enumerate(PART_NAMES, _FIRST_PART_CATEGORY)
    ]
    return (*objects, *parts)


def describe_group(scenes: Sequence[Scene], index: int, dataset_name: str) -> GroupDocument:
    """Returns images, annotations and records of one group.

    Args:
        scenes: one to eight.
        index: number of the group in its set; all ids follow from it.
        dataset_name: as written in the records.
    """
    comparison = compare(scenes)
    sheets = [_Sheet(scene, index * MAX_GROUP_SIZE + n + 1) for n, scene in enumerate(scenes)]
    img_ids = tuple(sheet.image_id for sheet in sheets)
    commons = tuple(
        CommonObject(
            cat=label,
            ann_ids=tuple(sheet.objects[label] for sheet in sheets),
            visibility=tuple(float(category_mask(s, label).mean()) for s in scenes),
        )
        for label in comparison.common_objects
    )
    pair = ComparedPair(
        cats=comparison.mains,
        ann_ids=tuple((sheet.main,) for sheet in sheets),
        visibility=tuple(float((scene.object_map == 1).mean()) for scene in scenes),
        common=_common_parts(scenes, sheets, comparison.common_parts),
        unique=_unique_parts(sheets, comparison.unique_parts),
    )
    records = [Record(dataset_name, img_ids, is_object=False, pairs=(pair,))]
    if commons:
        records.insert(0, Record(dataset_name, img_ids, is_object=True, common=commons))
    images = tuple(
        CocoImage(sheet.image_id, f"{index:06d}_{n + 1}.png", *scene.object_map.shape[::-1])
        for n, (sheet, scene) in enumerate(zip(sheets, scenes, strict=True))
    )
    annotations = tuple(mask for sheet in sheets for mask in sheet.annotations)
    return GroupDocument(images, annotations, tuple(records))


@dataclass
class _Sheet:
    """The annotations of one image, and their ids by name of the object or part."""

    scene: Scene
    image_id: int
    annotations: list[CocoAnnotation] = field(default_factory=list)
    objects: dict[str, tuple[int, ...]] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    main: int = 0

    def __post_init__(self) -> None:
        for number, label in enumerate(self.scene.categories, start=1):
            mask = self.scene.object_map == number
            if mask.any():
                added = self._add(mask, CATEGORIES.index(label) + 1)
                self.objects[label] = (*self.objects.get(label, ()), added)
        self.main = self.annotations[0].id
        for label in visible_parts(self.scene):
            category_id = PART_NAMES.index(label) + _FIRST_PART_CATEGORY
            self.parts[label] = self._add(part_mask(self.scene, label), category_id)

    def _add(self, mask: BoolMask, category_id: int) -> int:
        """Appends an annotation and returns its id."""
        extent = extent_of(mask)
        assert extent is not None  # what is described is visible
        x0, y0, x1, y1 = extent
        annotation = CocoAnnotation(
            id=self.image_id * _MASKS_PER_IMAGE + len(self.annotations),
            image_id=self.image_id,
            category_id=category_id,
            segmentation=encode_mask(mask),
            area=float(mask.sum()),
            bbox=(x0, y0, x1 - x0, y1 - y0),
        )
        self.annotations.append(annotation)
        return annotation.id


def _common_parts(
    scenes: Sequence[Scene], sheets: Sequence[_Sheet], labels: tuple[str, ...]
) -> tuple[CommonPart, ...] | None:
    """Returns the record of the common parts of the compared objects; None without any."""
    return (
        tuple(
            CommonPart(
                part_cat=label,
                part_ann_ids=tuple((sheet.parts[label],) for sheet in sheets),
                part_visibility=tuple(float(part_mask(s, label).mean()) for s in scenes),
            )
            for label in labels
        )
        or None
    )


def _unique_parts(
    sheets: Sequence[_Sheet], labels: tuple[tuple[str, ...], ...]
) -> UniqueParts | None:
    """Returns the record of the unique parts of the compared objects; None without any."""
    if not any(labels):
        return None
    return UniqueParts(
        part_cats=labels,
        part_ann_ids=tuple(
            tuple((sheet.parts[label],) for label in names)
            for sheet, names in zip(sheets, labels, strict=True)
        ),
    )
