"""Labeled groups on disk, read one at a time; and the reader of folders that `calico synth` writes.

Such a folder holds `records.json`, `annotations.json` and `images/`. References are checked when
the folder is opened; pixels are decoded when a group is read. MixedParts has its own reader.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import cv2
import numpy as np

from calico_model.data.records import (
    ANNOTATIONS_FILE,
    IMAGES_FOLDER,
    RECORDS_FILE,
    CocoDocument,
    CommonObject,
    ComparedPair,
    Ids,
    Record,
    decode_mask,
    read_document,
)
from calico_model.data.truth import check_record, object_truth, part_truth
from calico_model.errors import InvalidRecordError
from calico_model.types import (
    BoolMask,
    ComparedObject,
    ImageGroup,
    LabeledGroup,
    PartMask,
    RegionKind,
    RgbImage,
)


class GroupSet(Sequence[LabeledGroup]):
    """Labeled groups, read from disk on access.

    Training also reads parts of groups: the records alone, or the masks alone.

    Attributes:
        skipped: a message per broken record that was left out.
    """

    skipped: tuple[str, ...] = ()

    @overload
    def __getitem__(self, index: int) -> LabeledGroup: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LabeledGroup]: ...
    def __getitem__(self, index: int | slice) -> LabeledGroup | Sequence[LabeledGroup]:
        if isinstance(index, slice):
            return [self._load(k) for k in range(*index.indices(len(self)))]
        return self._load(index)

    def __iter__(self) -> Iterator[LabeledGroup]:
        return (self._load(index) for index in range(len(self)))

    @abstractmethod
    def image_ids(self, index: int) -> Ids:
        """Returns the image ids of one group, in its order."""

    @abstractmethod
    def image_names(self, index: int) -> tuple[str, ...]:
        """Returns a readable name of each image of one group."""

    @abstractmethod
    def common_objects(self, index: int) -> tuple[CommonObject, ...]:
        """Returns the recorded common objects of one group; empty without such a record."""

    @abstractmethod
    def comparison(self, index: int) -> ComparedPair | None:
        """Returns the recorded comparison of one group; None without such a record."""

    @abstractmethod
    def known(self, index: int) -> frozenset[RegionKind]:
        """Returns the subtasks whose truth the records give completely."""

    @abstractmethod
    def image_path(self, image_id: int) -> Path:
        """Returns the file of one image."""

    @abstractmethod
    def read_image(self, image_id: int) -> RgbImage:
        """Decodes one image: (H, W, 3) uint8 RGB.

        Raises:
            InvalidRecordError: not readable, or of another size than its record says.
        """

    @abstractmethod
    def truth(self, index: int) -> tuple[tuple[PartMask, ...], tuple[ComparedObject, ...]]:
        """Returns parts and compared objects of one group, without decoding its images.

        Raises:
            InvalidRecordError: a broken or empty mask.
        """

    def _load(self, index: int) -> LabeledGroup:
        images = tuple(self.read_image(image_id) for image_id in self.image_ids(index))
        parts, objects = self.truth(index)
        group = ImageGroup(images, self.image_names(index))
        return LabeledGroup(group, parts, objects, self.known(index))


@dataclass
class _Entry:
    """The records of one group."""

    img_ids: Ids
    objects: tuple[CommonObject, ...] = ()
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


class GroupFolder(GroupSet):
    """The groups of one folder, in order of first mention; made by `read_groups`.

    These records are complete: what they do not mention is not in the images.
    """

    def __init__(self, folder: Path, records: tuple[Record, ...], document: CocoDocument) -> None:
        self._images = _FolderImages(folder / IMAGES_FOLDER, document)
        for index, record in enumerate(records):
            check_record(f"{RECORDS_FILE}: [{index}]", record, self._images)
        self._entries = _entries(records)

    def __len__(self) -> int:
        return len(self._entries)

    def image_ids(self, index: int) -> Ids:
        """Returns the image ids of one group, in its order."""
        return self._entries[index].img_ids

    def image_names(self, index: int) -> tuple[str, ...]:
        """Returns the file of each image without folder and suffix."""
        return tuple(self._images.name(image_id) for image_id in self.image_ids(index))

    def common_objects(self, index: int) -> tuple[CommonObject, ...]:
        """Returns the recorded common objects of one group; empty without such a record."""
        return self._entries[index].objects

    def comparison(self, index: int) -> ComparedPair | None:
        """Returns the recorded comparison of one group; None without such a record."""
        return self._entries[index].comparison

    def known(self, index: int) -> frozenset[RegionKind]:
        """Returns all subtasks."""
        return frozenset(RegionKind)

    def image_path(self, image_id: int) -> Path:
        """Returns the file of one image."""
        return self._images.path(image_id)

    def read_image(self, image_id: int) -> RgbImage:
        """Decodes one image; see `GroupSet.read_image`."""
        return self._images.image(image_id)

    def truth(self, index: int) -> tuple[tuple[PartMask, ...], tuple[ComparedObject, ...]]:
        """Returns parts and compared objects of one group; see `GroupSet.truth`."""
        entry = self._entries[index]
        parts = object_truth(entry.objects, self._images)
        if entry.comparison is None:
            return parts, ()
        compared, mains = part_truth(entry.img_ids, entry.comparison, self._images)
        return parts + compared, mains


class _FolderImages:
    """The images and annotations of one folder; see `AnnotatedImages`."""

    def __init__(self, folder: Path, document: CocoDocument) -> None:
        self._folder = folder
        self._images = {image.id: image for image in document.images}
        self._annotations = {annotation.id: annotation for annotation in document.annotations}

    def name(self, image_id: int) -> str:
        return Path(self._images[image_id].file_name).with_suffix("").as_posix()

    def path(self, image_id: int) -> Path:
        return self._folder / self._images[image_id].file_name

    def check_image(self, key: str, image_id: int) -> None:
        image = self._images.get(image_id)
        if image is None:
            raise InvalidRecordError(f"{key}: no image {image_id} in {ANNOTATIONS_FILE}")
        if not self.path(image_id).is_file():
            raise InvalidRecordError(
                f"{ANNOTATIONS_FILE}: image {image_id}: file_name: "
                f"no file {image.file_name!r} in {IMAGES_FOLDER}"
            )

    def check_object(self, key: str, ann_id: int, image_id: int) -> None:
        annotation = self._annotations.get(ann_id)
        if annotation is None:
            raise InvalidRecordError(f"{key}: no annotation {ann_id} in {ANNOTATIONS_FILE}")
        if annotation.image_id != image_id:
            raise InvalidRecordError(
                f"{key}: annotation {ann_id} belongs to image {annotation.image_id}, "
                f"expected image {image_id}"
            )

    def check_part(self, key: str, ann_id: int, image_id: int) -> None:
        self.check_object(key, ann_id, image_id)

    def check_part_label(self, key: str, label_id: int, image_id: int) -> None:
        raise InvalidRecordError(
            f"{key}: label {label_id} of image {image_id}: expected part_ann_ids, "
            "this folder has no maps of part labels"
        )

    def image(self, image_id: int) -> RgbImage:
        image = self._images[image_id]
        pixels = cv2.imread(str(self.path(image_id)), cv2.IMREAD_COLOR_RGB)
        where = f"{IMAGES_FOLDER}/{image.file_name}"
        if pixels is None:
            raise InvalidRecordError(f"{where}: expected a readable image")
        if pixels.shape[:2] != (image.height, image.width):
            raise InvalidRecordError(
                f"{where}: expected {image.width} x {image.height} px as in {ANNOTATIONS_FILE}, "
                f"got {pixels.shape[1]} x {pixels.shape[0]}"
            )
        return np.asarray(pixels, dtype=np.uint8)

    def object_mask(self, ann_ids: Ids) -> BoolMask:
        union: BoolMask = np.logical_or.reduce([self._mask(ann_id) for ann_id in ann_ids])
        return union

    def part_mask(self, ann_ids: Ids) -> BoolMask:
        return self.object_mask(ann_ids)

    def labeled_mask(self, image_id: int, label_ids: Ids, inside: BoolMask) -> BoolMask:
        raise AssertionError(f"check_part_label refuses labels: {image_id}, {label_ids}")

    def _mask(self, ann_id: int) -> BoolMask:
        annotation = self._annotations[ann_id]
        image = self._images[annotation.image_id]
        return decode_mask(annotation, (image.height, image.width))


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
        entry.objects += record.common
        for comparison in record.pairs:
            if entry.comparison is None:
                entry.comparison = comparison
            else:
                entries.append(_Entry(record.img_ids, comparison=comparison))
    return entries
