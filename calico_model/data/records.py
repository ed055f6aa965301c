"""The MixedParts record format: what stands in `records.json` and `annotations.json`.

One `Record` holds the common objects, or the compared parts, of one group of images. Masks are
COCO annotations, referred to by id. Lists "per image" follow `img_ids`; the released pairs are the
case of two images. Knows JSON and COCO run lengths; not where the data came from.

The masks of a part are named by annotation id (`part_ann_ids`), or, where a source has a map of
part labels instead of annotations, by the labels inside the object (`part_cat_ids`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import numpy as np
from pycocotools import mask as coco_mask

from calico_model.errors import InvalidRecordError
from calico_model.types import BoolMask

RECORDS_FILE = "records.json"
ANNOTATIONS_FILE = "annotations.json"
IMAGES_FOLDER = "images"

Ids = tuple[int, ...]
PerImage = tuple[Ids, ...]
_Document = TypeVar("_Document")


class CommonObject(msgspec.Struct, frozen=True):
    """An object found in every image; `visibility` is its share of each image's area."""

    cat: str
    ann_ids: PerImage
    visibility: tuple[float, ...] = ()


class CommonPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """A part the compared objects of all images have; `part_visibility` as in CommonObject."""

    part_cat: str
    part_ann_ids: PerImage = ()
    part_cat_ids: PerImage = ()
    part_visibility: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check_one_kind_of_ids(self.part_ann_ids, self.part_cat_ids)


class UniqueParts(msgspec.Struct, frozen=True, omit_defaults=True):
    """Per image, names of the parts only its object has, and the ids of each name."""

    part_cats: tuple[tuple[str, ...], ...]
    part_ann_ids: tuple[PerImage, ...] = ()
    part_cat_ids: tuple[PerImage, ...] = ()

    def __post_init__(self) -> None:
        _check_one_kind_of_ids(self.part_ann_ids, self.part_cat_ids)


class ComparedPair(msgspec.Struct, frozen=True):
    """One compared object per image (`cats`, `ann_ids`) and how their parts relate."""

    cats: tuple[str, ...]
    ann_ids: PerImage
    visibility: tuple[float, ...] = ()
    common: tuple[CommonPart, ...] | None = None
    unique: UniqueParts | None = None


def _check_one_kind_of_ids(part_ann_ids: Sequence[object], part_cat_ids: Sequence[object]) -> None:
    """Makes a decoder say what is wrong and where: ValueError is what it understands."""
    if bool(part_ann_ids) == bool(part_cat_ids):
        raise ValueError("Expected either `part_ann_ids` or `part_cat_ids`")


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry of `records.json`: `common` for an object record, `pairs` for a part record."""

    dataset_name: str
    img_ids: Ids
    is_object: bool
    common: tuple[CommonObject, ...] = ()
    pairs: tuple[ComparedPair, ...] = ()


class Rle(msgspec.Struct, frozen=True):
    """A COCO mask of `size` (height, width): compressed text or plain run lengths."""

    size: tuple[int, int]
    counts: str | tuple[int, ...]


class CocoImage(msgspec.Struct, frozen=True):
    """An image; `file_name` is relative to the images folder."""

    id: int
    file_name: str
    width: Annotated[int, msgspec.Meta(ge=1)]
    height: Annotated[int, msgspec.Meta(ge=1)]


class CocoCategory(msgspec.Struct, frozen=True):
    """A name of objects or of parts (`supercategory` "object" or "part" in our own sets)."""

    id: int
    name: str
    supercategory: str = ""


Segmentation = Rle | tuple[tuple[float, ...], ...]
"""A mask in a file: run lengths, or polygons as flat x, y lists."""


class CocoAnnotation(msgspec.Struct, frozen=True):
    """A mask of an image and what it shows."""

    id: int
    image_id: int
    category_id: int
    segmentation: Segmentation
    area: float = 0.0
    bbox: tuple[float, ...] = ()
    iscrowd: int = 0


class CocoDocument(msgspec.Struct, frozen=True):
    """The content of `annotations.json`."""

    images: tuple[CocoImage, ...]
    annotations: tuple[CocoAnnotation, ...]
    categories: tuple[CocoCategory, ...] = ()


def read_document(path: Path, kind: type[_Document]) -> _Document:
    """Reads one JSON file.

    Args:
        path: the file.
        kind: expected type of its content.

    Raises:
        InvalidRecordError: the file is missing, no JSON, or not of that type; names file and key.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise InvalidRecordError(
            f"{path.name}: expected a readable file in {path.parent}"
        ) from error
    except msgspec.DecodeError as error:
        raise InvalidRecordError(f"{path.name}: {error}") from error


def encode_mask(mask: BoolMask) -> Rle:
    """Returns a (H, W) mask as compressed COCO run lengths."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    height, width = mask.shape
    return Rle((height, width), encoded["counts"].decode("ascii"))


def decode_mask(annotation: CocoAnnotation, size_hw: tuple[int, int]) -> BoolMask:
    """Returns the mask of an annotation of `annotations.json`; see `read_mask`."""
    where = f"{ANNOTATIONS_FILE}: annotation {annotation.id}: segmentation"
    return read_mask(annotation.segmentation, size_hw, where)


def read_mask(segmentation: Segmentation, size_hw: tuple[int, int], where: str) -> BoolMask:
    """Returns a stored mask, (H, W) bool.

    Args:
        segmentation: run lengths or polygons.
        size_hw: (height, width) of its image.
        where: file and key, for messages.

    Raises:
        InvalidRecordError: run lengths of another size, broken or empty masks.
    """
    if isinstance(segmentation, Rle) and segmentation.size != size_hw:
        raise InvalidRecordError(
            f"{where}.size: expected {list(size_hw)}, got {list(segmentation.size)}"
        )
    try:
        mask = _fill(_run_lengths(segmentation, size_hw), size_hw)
    except ValueError as error:
        raise InvalidRecordError(f"{where}: expected a mask, got {error}") from error
    if not mask.any():
        raise InvalidRecordError(f"{where}: expected at least one pixel, got an empty mask")
    return mask


def _run_lengths(segmentation: Segmentation, size_hw: tuple[int, int]) -> Sequence[int]:
    """Returns alternating lengths of unset and set pixels, column by column."""
    if isinstance(segmentation, Rle):
        counts = segmentation.counts
        return _unpack(counts) if isinstance(counts, str) else counts
    if not segmentation:
        raise ValueError("no polygon")
    polygons = [_flat_polygon(points, size_hw) for points in segmentation]
    merged = coco_mask.merge(coco_mask.frPyObjects(polygons, *size_hw))
    return _unpack(merged["counts"].decode("ascii"))


def _fill(runs: Sequence[int], size_hw: tuple[int, int]) -> BoolMask:
    """Returns run lengths as a mask, after checking that they fill it exactly."""
    height, width = size_hw
    if min(runs, default=-1) < 0 or sum(runs) != height * width:
        raise ValueError(f"run lengths that do not add up to {height} x {width}")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(flat.reshape(width, height).T)


def _flat_polygon(points: tuple[float, ...], size_hw: tuple[int, int]) -> list[float]:
    """Returns x, y numbers cut to the image: far points would cost time and memory."""
    if len(points) < 6 or len(points) % 2:
        raise ValueError(f"a polygon of {len(points)} numbers, not x, y of three or more points")
    corners = np.array(points).reshape(-1, 2)
    return [float(n) for n in np.clip(corners, 0, (size_hw[1], size_hw[0])).ravel()]


def _unpack(text: str) -> list[int]:
    """Unpacks COCO's compressed run lengths (pycocotools maskApi.c, rleFrString)."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"character {character!r} in run lengths")
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:
            continue
        if code & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("run lengths that stop in the middle of a number")
    return runs
