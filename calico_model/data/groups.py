"""Reads a folder of MixedParts records as groups with truth, one at a time.

The folder holds `records.json`, `annotations.json` and `images/`. References are checked when the
folder is opened; pixels are decoded when a group is asked for. Serves generated and real sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import cv2
import numpy as np

from calico_model.data.records import (
    ANNOTATIONS_FILE,
    IMAGES_FOLDER,
    RECORDS_FILE,
    CocoAnnotation,
    CocoDocument,
    CocoImage,
    CommonObject,
    ComparedPair,
    Ids,
    PerImage,
    Record,
    decode_mask,
    read_document,
)
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


@dataclass
class _Entry:
    """What the records say about one group."""

    img_ids: Ids
    objects: list[CommonObject] = field(default_factory=list)
    comparison: ComparedPair | None = None


def read_groups(folder: Path) -> GroupFolder:
    """Opens a data set.

    An object record and a part record of the same images make one group; a part record with
    several comparisons makes one group for each.

    Args:
        folder: as written by `write_groups`.

    Returns:
        A sequence whose items are read from disk on access.

    Raises:
        InvalidRecordError: a file or image is missing, a reference dangles, or lists that belong
            together differ in length; the message names file and key. Also raised on access, for
            broken images and empty masks.
    """
    records = read_document(folder / RECORDS_FILE, tuple[Record, ...])
    return GroupFolder(folder, records, read_document(folder / ANNOTATIONS_FILE, CocoDocument))


class GroupFolder(Sequence[LabeledGroup]):
    """The groups of one folder, in order of first mention; made by `read_groups`.

    Training asks for less than whole groups: what can be asked about one, and its masks alone.
    """

    def __init__(self, folder: Path, records: tuple[Record, ...], document: CocoDocument) -> None:
        self._images_folder = folder / IMAGES_FOLDER
        self._images = {image.id: image for image in document.images}
        self._annotations = {annotation.id: annotation for annotation in document.annotations}
        for index, record in enumerate(records):
            self._check_record(f"{RECORDS_FILE}: [{index}]", record)
        self._entries = _entries(records)

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> LabeledGroup: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LabeledGroup]: ...
    def __getitem__(self, index: int | slice) -> LabeledGroup | Sequence[LabeledGroup]:
        if isinstance(index, slice):
            return [self._load(entry) for entry in self._entries[index]]
        return self._load(self._entries[index])

    def __iter__(self) -> Iterator[LabeledGroup]:
        return (self._load(entry) for entry in self._entries)

    def _check_record(self, key: str, record: Record) -> None:
        """Raises InvalidRecordError unless every reference of a record leads somewhere."""
        count = len(record.img_ids)
        if not 1 <= count <= MAX_GROUP_SIZE or len(set(record.img_ids)) != count:
            raise InvalidRecordError(
                f"{key}.img_ids: expected 1 to {MAX_GROUP_SIZE} different images, "
                f"got {list(record.img_ids)}"
            )
        for image_id in record.img_ids:
            image = self._images.get(image_id)
            if image is None:
                raise InvalidRecordError(
                    f"{key}.img_ids: no image {image_id} in {ANNOTATIONS_FILE}"
                )
            if not (self._images_folder / image.file_name).is_file():
                raise InvalidRecordError(
                    f"{ANNOTATIONS_FILE}: image {image_id}: file_name: "
                    f"no file {image.file_name!r} in {IMAGES_FOLDER}"
                )
        for n, shared in enumerate(record.common):
            self._check_ids(f"{key}.common[{n}].ann_ids", record.img_ids, shared.ann_ids)
        for n, comparison in enumerate(record.pairs):
            self._check_comparison(f"{key}.pairs[{n}]", record.img_ids, comparison)

    def _check_comparison(self, key: str, img_ids: Ids, comparison: ComparedPair) -> None:
        _check_length(f"{key}.cats", comparison.cats, img_ids)
        self._check_ids(f"{key}.ann_ids", img_ids, comparison.ann_ids)
        for n, part in enumerate(comparison.common or ()):
            self._check_ids(f"{key}.common[{n}].part_ann_ids", img_ids, part.part_ann_ids)
        unique = comparison.unique
        if unique is None:
            return
        _check_length(f"{key}.unique.part_cats", unique.part_cats, img_ids)
        _check_length(f"{key}.unique.part_ann_ids", unique.part_ann_ids, img_ids)
        for n, image_id in enumerate(img_ids):
            where = f"{key}.unique.part_ann_ids[{n}]"
            _check_length(where, unique.part_ann_ids[n], unique.part_cats[n])
            owners = (image_id,) * len(unique.part_cats[n])
            self._check_ids(where, owners, unique.part_ann_ids[n])

    def _check_ids(self, key: str, img_ids: Ids, ann_ids: PerImage) -> None:
        """Raises unless there is a non-empty list per image, of that image's annotations."""
        _check_length(key, ann_ids, img_ids)
        for n, (image_id, ids) in enumerate(zip(img_ids, ann_ids, strict=True)):
            if not ids:
                raise InvalidRecordError(f"{key}[{n}]: expected at least one annotation id, got []")
            for ann_id in ids:
                annotation = self._annotations.get(ann_id)
                if annotation is None:
                    raise InvalidRecordError(
                        f"{key}[{n}]: no annotation {ann_id} in {ANNOTATIONS_FILE}"
                    )
                if annotation.image_id != image_id:
                    raise InvalidRecordError(
                        f"{key}[{n}]: annotation {ann_id} belongs to image "
                        f"{annotation.image_id}, expected image {image_id}"
                    )

    def image_ids(self, index: int) -> Ids:
        """Returns the image ids of one group, in its order."""
        return self._entries[index].img_ids

    def common_objects(self, index: int) -> tuple[CommonObject, ...]:
        """Returns what the records call common objects of one group; empty if they are silent."""
        return tuple(self._entries[index].objects)

    def comparison(self, index: int) -> ComparedPair | None:
        """Returns the compared objects of one group, if its records compare any."""
        return self._entries[index].comparison

    def image_path(self, image_id: int) -> Path:
        """Returns the file of one image."""
        return self._images_folder / self._images[image_id].file_name

    def read_image(self, image_id: int) -> RgbImage:
        """Decodes one image: (H, W, 3) uint8 RGB.

        Raises:
            InvalidRecordError: not readable, or of another size than its record says.
        """
        return self._read_image(self._images[image_id])

    def truth(self, index: int) -> tuple[tuple[PartMask, ...], tuple[ComparedObject, ...]]:
        """Returns parts and compared objects of one group, without decoding its images.

        Raises:
            InvalidRecordError: a broken or empty mask.
        """
        return self._truth(self._entries[index])

    def _load(self, entry: _Entry) -> LabeledGroup:
        images = tuple(self._read_image(self._images[image_id]) for image_id in entry.img_ids)
        names = tuple(
            Path(self._images[i].file_name).with_suffix("").as_posix() for i in entry.img_ids
        )
        parts, objects = self._truth(entry)
        return LabeledGroup(ImageGroup(images, names), parts, objects)

    def _truth(self, entry: _Entry) -> tuple[tuple[PartMask, ...], tuple[ComparedObject, ...]]:
        parts = [mask for shared in entry.objects for mask in self._object_masks(shared)]
        objects: tuple[ComparedObject, ...] = ()
        if entry.comparison is not None:
            compared = entry.comparison
            objects = tuple(
                ComparedObject(n, label, self._union(ids))
                for n, (label, ids) in enumerate(zip(compared.cats, compared.ann_ids, strict=True))
            )
            parts += [*self._common_masks(compared), *self._unique_masks(compared)]
        return tuple(parts), objects

    def _object_masks(self, shared: CommonObject) -> Iterator[PartMask]:
        kind = RegionKind.COMMON_OBJECT
        for n, ids in enumerate(shared.ann_ids):
            yield PartMask(n, kind, shared.cat, self._union(ids), part_id=f"{kind}/{shared.cat}")

    def _common_masks(self, compared: ComparedPair) -> Iterator[PartMask]:
        kind = RegionKind.COMMON_PART
        for part in compared.common or ():
            for n, ids in enumerate(part.part_ann_ids):
                part_id = f"{kind}/{part.part_cat}"
                mask = self._union(ids)
                yield PartMask(n, kind, part.part_cat, mask, compared.cats[n], part_id)

    def _unique_masks(self, compared: ComparedPair) -> Iterator[PartMask]:
        if compared.unique is None:
            return
        both = zip(compared.unique.part_cats, compared.unique.part_ann_ids, strict=True)
        for n, (labels, per_label) in enumerate(both):
            for label, ids in zip(labels, per_label, strict=True):
                mask = self._union(ids)
                yield PartMask(n, RegionKind.UNIQUE_PART, label, mask, compared.cats[n])

    def _union(self, ann_ids: Ids) -> BoolMask:
        """Returns all annotations of one name in one image as one mask."""
        masks = [self._decode(self._annotations[ann_id]) for ann_id in ann_ids]
        union: BoolMask = np.logical_or.reduce(masks)
        return union

    def _decode(self, annotation: CocoAnnotation) -> BoolMask:
        image = self._images[annotation.image_id]
        return decode_mask(annotation, (image.height, image.width))

    def _read_image(self, image: CocoImage) -> RgbImage:
        pixels = cv2.imread(str(self._images_folder / image.file_name), cv2.IMREAD_COLOR_RGB)
        where = f"{IMAGES_FOLDER}/{image.file_name}"
        if pixels is None:
            raise InvalidRecordError(f"{where}: expected a readable image")
        if pixels.shape[:2] != (image.height, image.width):
            raise InvalidRecordError(
                f"{where}: expected {image.width} x {image.height} px as in {ANNOTATIONS_FILE}, "
                f"got {pixels.shape[1]} x {pixels.shape[0]}"
            )
        return np.asarray(pixels, dtype=np.uint8)


def _entries(records: tuple[Record, ...]) -> list[_Entry]:
    """Joins object and part records of the same images, in order of first mention."""
    entries: list[_Entry] = []
    by_images: dict[tuple[str, Ids], _Entry] = {}
    for record in records:
        images = (record.dataset_name, record.img_ids)
        entry = by_images.get(images)
        if entry is None:
            entry = by_images[images] = _Entry(record.img_ids)
            entries.append(entry)
        entry.objects.extend(record.common)
        for comparison in record.pairs:
            if entry.comparison is None:
                entry.comparison = comparison
            else:
                entries.append(_Entry(record.img_ids, comparison=comparison))
    return entries


def _check_length(key: str, values: Sequence[object], per: Sequence[object]) -> None:
    if len(values) != len(per):
        raise InvalidRecordError(f"{key}: expected {len(per)} entries, got {len(values)}")
