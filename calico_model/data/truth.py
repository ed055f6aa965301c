"""Checks MixedParts records, and reads the truth of a group from them as masks.

The form of the records is the same for every data set. The source of the pixels differs; each
source implements `AnnotatedImages`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import msgspec

from calico_model.data.records import (
    CommonObject,
    CommonPart,
    ComparedPair,
    Ids,
    PerImage,
    Record,
    UniqueParts,
)
from calico_model.errors import InvalidRecordError
from calico_model.types import (
    MAX_GROUP_SIZE,
    BoolMask,
    ComparedObject,
    PartMask,
    RegionKind,
    RgbImage,
)

_Check = Callable[[str, int, int], None]
"""Takes key, id and image id; raises InvalidRecordError unless the id exists."""


class AnnotatedImages(Protocol):
    """Images and masks by id. The `check_*` methods read no pixels; `key` begins their messages.

    Every method raises InvalidRecordError for missing or broken data.
    """

    def check_image(self, key: str, image_id: int) -> None:
        """Raises unless the image has a description and a file."""

    def check_object(self, key: str, ann_id: int, image_id: int) -> None:
        """Raises unless the image has this object annotation."""

    def check_part(self, key: str, ann_id: int, image_id: int) -> None:
        """Raises unless the image has this part annotation."""

    def check_part_label(self, key: str, label_id: int, image_id: int) -> None:
        """Raises unless the image has a map of part labels that may hold this label."""

    def image(self, image_id: int) -> RgbImage:
        """Returns the pixels, (H, W, 3) uint8 RGB."""

    def object_mask(self, ann_ids: Ids) -> BoolMask:
        """Returns the union of object annotations of one image, (H, W) bool."""

    def part_mask(self, ann_ids: Ids) -> BoolMask:
        """Returns the union of part annotations of one image, (H, W) bool."""

    def labeled_mask(self, image_id: int, label_ids: Ids, inside: BoolMask) -> BoolMask:
        """Returns the pixels inside an object that the map of part labels gives these labels."""


def tidy(record: Record) -> Record:
    """Returns a record with tidy names: lower case, single spaces."""
    return msgspec.structs.replace(
        record,
        common=tuple(msgspec.structs.replace(c, cat=_label(c.cat)) for c in record.common),
        pairs=tuple(_tidy_pair(pair) for pair in record.pairs),
    )


def check_record(key: str, record: Record, images: AnnotatedImages, least_images: int = 1) -> None:
    """Checks that every id of a record exists and that its lists have matching lengths.

    Args:
        key: file and index of the record, for messages.
        record: from `tidy`.
        images: what the ids refer to.
        least_images: smallest group the set may hold.

    Raises:
        InvalidRecordError: names the key of the first value that is wrong.
    """
    count = len(record.img_ids)
    if not least_images <= count <= MAX_GROUP_SIZE or len(set(record.img_ids)) != count:
        raise InvalidRecordError(
            f"{key}.img_ids: expected {least_images} to {MAX_GROUP_SIZE} different images, "
            f"got {list(record.img_ids)}"
        )
    fields: list[tuple[str, Sequence[object]]] = [
        ("common", record.common),
        ("pairs", record.pairs),
    ]
    (field, content), (other, rest) = fields if record.is_object else fields[::-1]
    if not content:
        raise InvalidRecordError(f"{key}.{field}: expected at least one entry, got none")
    if rest:
        is_object = str(record.is_object).lower()
        raise InvalidRecordError(
            f"{key}.{other}: expected none where is_object is {is_object}, got {len(rest)}"
        )
    for image_id in record.img_ids:
        images.check_image(f"{key}.img_ids", image_id)
    _check_once(f"{key}.common", [shared.cat for shared in record.common])
    for n, shared in enumerate(record.common):
        where = f"{key}.common[{n}].ann_ids"
        _check_ids(where, record.img_ids, shared.ann_ids, images.check_object)
    for n, compared in enumerate(record.pairs):
        _check_comparison(f"{key}.pairs[{n}]", record.img_ids, compared, images)


def object_truth(objects: Sequence[CommonObject], images: AnnotatedImages) -> tuple[PartMask, ...]:
    """Returns the regions of common objects, from records that passed `check_record`.

    Raises:
        InvalidRecordError: a mask that cannot be read, or is empty.
    """
    kind = RegionKind.COMMON_OBJECT
    return tuple(
        PartMask(n, kind, shared.cat, images.object_mask(ids), part_id=f"{kind}/{shared.cat}")
        for shared in objects
        for n, ids in enumerate(shared.ann_ids)
    )


def part_truth(
    img_ids: Ids, compared: ComparedPair, images: AnnotatedImages
) -> tuple[tuple[PartMask, ...], tuple[ComparedObject, ...]]:
    """Returns the common and unique parts of compared objects, and the objects.

    Args:
        img_ids: ids of the images, in group order.
        compared: from a record that passed `check_record`.
        images: what the ids refer to.

    Raises:
        InvalidRecordError: a mask that cannot be read, or is empty.
    """
    mains = tuple(
        ComparedObject(n, label, images.object_mask(ids))
        for n, (label, ids) in enumerate(zip(compared.cats, compared.ann_ids, strict=True))
    )
    parts = (
        *_common_masks(img_ids, compared, mains, images),
        *_unique_masks(img_ids, compared, mains, images),
    )
    return parts, mains


def _label(name: str) -> str:
    return " ".join(name.lower().split())


def _tidy_pair(pair: ComparedPair) -> ComparedPair:
    common, unique = pair.common, pair.unique
    return msgspec.structs.replace(
        pair,
        cats=tuple(map(_label, pair.cats)),
        common=common
        and tuple(msgspec.structs.replace(c, part_cat=_label(c.part_cat)) for c in common),
        unique=unique
        and msgspec.structs.replace(
            unique, part_cats=tuple(tuple(map(_label, names)) for names in unique.part_cats)
        ),
    )


def _check_comparison(
    key: str, img_ids: Ids, compared: ComparedPair, images: AnnotatedImages
) -> None:
    _check_length(f"{key}.cats", compared.cats, img_ids)
    _check_ids(f"{key}.ann_ids", img_ids, compared.ann_ids, images.check_object)
    common = compared.common or ()
    for n, part in enumerate(common):
        field, check = _field_of(part, images)
        ids = part.part_ann_ids or part.part_cat_ids
        _check_ids(f"{key}.common[{n}].{field}", img_ids, ids, check)
    names = [[part.part_cat for part in common] for _ in img_ids]
    unique = compared.unique
    if unique is not None:
        field, check = _field_of(unique, images)
        per_image = unique.part_ann_ids or unique.part_cat_ids
        _check_length(f"{key}.unique.part_cats", unique.part_cats, img_ids)
        _check_length(f"{key}.unique.{field}", per_image, img_ids)
        for n, (image_id, cats) in enumerate(zip(img_ids, unique.part_cats, strict=True)):
            where = f"{key}.unique.{field}[{n}]"
            _check_length(where, per_image[n], cats)
            _check_ids(where, (image_id,) * len(cats), per_image[n], check)
            names[n] += cats
    for n, part_names in enumerate(names):
        _check_once(f"{key}: parts of image {n}", part_names)


def _field_of(parts: CommonPart | UniqueParts, images: AnnotatedImages) -> tuple[str, _Check]:
    """Returns the name of the field that holds the part ids, and the check of one id."""
    if parts.part_ann_ids:
        return "part_ann_ids", images.check_part
    return "part_cat_ids", images.check_part_label


def _check_ids(key: str, img_ids: Ids, ids: PerImage, check: _Check) -> None:
    """Raises unless each image has a non-empty list of its own ids, without repetition."""
    _check_length(key, ids, img_ids)
    for n, (image_id, listed) in enumerate(zip(img_ids, ids, strict=True)):
        if not listed:
            raise InvalidRecordError(f"{key}[{n}]: expected at least one id, got []")
        if len(set(listed)) != len(listed):
            raise InvalidRecordError(f"{key}[{n}]: expected different ids, got {list(listed)}")
        for one_id in listed:
            check(f"{key}[{n}]", one_id, image_id)


def _check_length(key: str, values: Sequence[object], per: Sequence[object]) -> None:
    if len(values) != len(per):
        raise InvalidRecordError(f"{key}: expected {len(per)} entries, got {len(values)}")


def _check_once(key: str, names: Sequence[str]) -> None:
    for n, name in enumerate(names):
        if name in names[:n]:
            raise InvalidRecordError(f"{key}: expected different names, got {name!r} twice")


def _common_masks(
    img_ids: Ids,
    compared: ComparedPair,
    mains: Sequence[ComparedObject],
    images: AnnotatedImages,
) -> Iterator[PartMask]:
    kind = RegionKind.COMMON_PART
    for part in compared.common or ():
        for main, image_id in zip(mains, img_ids, strict=True):
            n = main.image_index
            if part.part_ann_ids:
                mask = images.part_mask(part.part_ann_ids[n])
            else:
                mask = images.labeled_mask(image_id, part.part_cat_ids[n], main.mask)
            yield PartMask(n, kind, part.part_cat, mask, main.label, f"{kind}/{part.part_cat}")


def _unique_masks(
    img_ids: Ids,
    compared: ComparedPair,
    mains: Sequence[ComparedObject],
    images: AnnotatedImages,
) -> Iterator[PartMask]:
    unique = compared.unique
    if unique is None:
        return
    for main, image_id in zip(mains, img_ids, strict=True):
        n = main.image_index
        for k, label in enumerate(unique.part_cats[n]):
            if unique.part_ann_ids:
                mask = images.part_mask(unique.part_ann_ids[n][k])
            else:
                mask = images.labeled_mask(image_id, unique.part_cat_ids[n][k], main.mask)
            yield PartMask(n, RegionKind.UNIQUE_PART, label, mask, main.label)
