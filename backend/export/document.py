"""COCO documents and MixedParts records that are built in memory, and files that are whole.

`calico corrections --export` and `calico export --format mixedparts` write with it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from pycocotools import mask as coco_mask

from calico_model.data.records import (
    ANNOTATIONS_FILE,
    RECORDS_FILE,
    CocoAnnotation,
    CocoCategory,
    CocoDocument,
    CocoImage,
    CommonObject,
    CommonPart,
    ComparedPair,
    Record,
    Rle,
    UniqueParts,
    encode_mask,
)
from calico_model.types import BoolMask, PartMask, RegionKind

_DATASET = "corrections"
_UNNAMED_OBJECT = "object"  # name of the compared object if no annotator named it


@dataclass
class Document:
    """The three lists of a COCO file, numbered from 1."""

    images: list[CocoImage] = field(default_factory=list)
    annotations: list[CocoAnnotation] = field(default_factory=list)
    categories: dict[str, CocoCategory] = field(default_factory=dict)
    extras: list[dict[str, object]] = field(default_factory=list)

    def add_image(self, name: str, size_hw: tuple[int, int]) -> int:
        """Returns the image's id."""
        self.images.append(CocoImage(len(self.images) + 1, name, size_hw[1], size_hw[0]))
        return len(self.images)

    def add_category(self, name: str, supercategory: str) -> int:
        """Returns the category's id; an existing category stays as it is."""
        number = len(self.categories) + 1
        return self.categories.setdefault(name, CocoCategory(number, name, supercategory)).id

    def add_mask(
        self, image_id: int, name: str, mask: BoolMask, supercategory: str, **extra: object
    ) -> int:
        """Returns the annotation's id."""
        rle = encode_mask(mask)
        annotation = CocoAnnotation(
            id=len(self.annotations) + 1,
            image_id=image_id,
            category_id=self.add_category(name, supercategory),
            segmentation=rle,
            area=float(np.count_nonzero(mask)),
            bbox=box_of(rle),
        )
        self.annotations.append(annotation)
        self.extras.append(extra)
        return annotation.id

    @property
    def coco(self) -> CocoDocument:
        """Returns the document in the form of calico_model.data.records."""
        return CocoDocument(
            tuple(self.images), tuple(self.annotations), tuple(self.categories.values())
        )


def group_records(
    document: Document, parts: Sequence[PartMask], image_ids: Mapping[int, int]
) -> list[Record]:
    """Adds the masks of one group to a document and returns its object and part records.

    The format requires a name in every image of its record, so a record holds only the images that
    show the name.

    Args:
        document: gets the masks.
        parts: the truth of the group: per image at most one mask of each kind and name.
        image_ids: id in the document of each image of the group that shows a part.
    """
    places: dict[tuple[RegionKind, str], dict[int, int]] = {}
    for part in parts:
        is_object = part.kind is RegionKind.COMMON_OBJECT
        mask_id = document.add_mask(
            image_ids[part.image_index], part.label, part.mask, "object" if is_object else "part"
        )
        places.setdefault((part.kind, part.label), {})[part.image_index] = mask_id
    records = []
    common: dict[tuple[int, ...], list[tuple[str, dict[int, int]]]] = {}
    objects: dict[int, tuple[str, int]] = {}
    for (kind, label), mask_ids in places.items():
        where = tuple(sorted(mask_ids))
        if kind is RegionKind.COMMON_OBJECT:
            shared = CommonObject(label, tuple((mask_ids[n],) for n in where))
            ids = tuple(image_ids[n] for n in where)
            records.append(Record(_DATASET, ids, True, common=(shared,)))
            for n in where:
                objects.setdefault(n, (label, mask_ids[n]))
        elif kind is RegionKind.COMMON_PART:
            common.setdefault(where, []).append((label, mask_ids))
    parted = [part for part in parts if part.kind is not RegionKind.COMMON_OBJECT]
    everywhere = tuple(sorted({part.image_index for part in parted}))
    for index in everywhere:
        if index not in objects:
            masks = [part.mask for part in parted if part.image_index == index]
            whole = np.logical_or.reduce(masks)
            mask_id = document.add_mask(image_ids[index], _UNNAMED_OBJECT, whole, "object")
            objects[index] = (_UNNAMED_OBJECT, mask_id)
    unique = _unique(places, everywhere)
    for where in sorted({*common, *([everywhere] if unique else [])}):
        pair = ComparedPair(
            cats=tuple(objects[n][0] for n in where),
            ann_ids=tuple((objects[n][1],) for n in where),
            common=tuple(
                CommonPart(label, tuple((mask_ids[n],) for n in where))
                for label, mask_ids in common.get(where, [])
            ),
            unique=unique if where == everywhere else None,
        )
        ids = tuple(image_ids[n] for n in where)
        records.append(Record(_DATASET, ids, False, pairs=(pair,)))
    return records


def write_record_files(folder: Path, document: Document, records: Sequence[Record]) -> None:
    """Writes annotations.json and records.json, as `calico train` and `evaluate` read them."""
    write_file(folder / ANNOTATIONS_FILE, msgspec.json.encode(document.coco))
    write_file(folder / RECORDS_FILE, msgspec.json.encode(records))


def _unique(
    places: dict[tuple[RegionKind, str], dict[int, int]], everywhere: tuple[int, ...]
) -> UniqueParts | None:
    """Returns the unique parts of each image; None without any."""
    per_image = [
        [
            (label, mask_ids[index])
            for (kind, label), mask_ids in places.items()
            if kind is RegionKind.UNIQUE_PART and index in mask_ids
        ]
        for index in everywhere
    ]
    if not any(per_image):
        return None
    return UniqueParts(
        part_cats=tuple(tuple(label for label, _ in parts) for parts in per_image),
        part_ann_ids=tuple(tuple((mask,) for _, mask in parts) for parts in per_image),
    )


def box_of(rle: Rle) -> tuple[float, ...]:
    """Returns x, y, width and height of a mask in pixels."""
    counts = rle.counts.encode() if isinstance(rle.counts, str) else rle.counts
    return tuple(float(side) for side in coco_mask.toBbox({"size": rle.size, "counts": counts}))


def write_file(path: Path, content: bytes) -> None:
    """Writes a file and waits until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
