"""What the three sources have in common: images with objects, and objects with parts.

A source is one split of one data set, in its own layout and file format. Reading asks it for
pixels by id (`AnnotatedImages`); building asks it for its census: who is where, by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from calico_model.data.mixedparts.classes import ObjectClass, SourcePlan
from calico_model.data.mixedparts.coco import CocoFile, Problems
from calico_model.data.records import CocoImage, Ids
from calico_model.errors import InvalidRecordError
from calico_model.types import BoolMask, RgbImage

_EXIF_ORIENTATION = 274
_TURNED = (5, 6, 7, 8)


class DatasetName(StrEnum):
    """The `dataset_name` of a record."""

    PACO_LVIS = "paco_lvis"
    PART_IMAGE_NET = "part_image_net"
    ADE20K_PART_234 = "ade20k_part234"


class SourceSplit(StrEnum):
    """Which split of a data set, as the records' file is called by."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


@dataclass(frozen=True)
class AnnotatedObject:
    """One annotated object of an image.

    Attributes:
        ann_id: its annotation.
        label: its class, cleaned up.
        area_share: its area over the image's as the file says, or None if it does not.
        parts: ids by part name: annotations, or labels of the label map. Empty if unknown.
    """

    ann_id: int
    label: str
    area_share: float | None
    parts: Mapping[str, Ids]


@dataclass(frozen=True)
class Census:
    """Who is where: instances by image id, in file order, and the classes by name."""

    instances: Mapping[int, Sequence[AnnotatedObject]] = field(default_factory=dict)
    classes: Mapping[str, ObjectClass] = field(default_factory=dict)


class AnnotatedSource(ABC):
    """One split of one data set; see `AnnotatedImages` for what it answers by id.

    Attributes:
        dataset_name: as records write it.
        objects: the file of object annotations; it also describes the images.
        has_part_labels: parts are labels of a map, not annotations.
    """

    dataset_name: DatasetName
    has_part_labels = False

    def __init__(self, objects: CocoFile) -> None:
        self.objects = objects
        self._found: set[int] = set()

    @abstractmethod
    def image_path(self, image_id: int) -> Path:
        """Returns where the file of an image is expected."""

    @abstractmethod
    def census(self, plan: SourcePlan, problems: Problems) -> Census:
        """Reads all annotations, without masks.

        Args:
            plan: how names are cleaned up.
            problems: told about annotations that refer to nothing.
        """

    @abstractmethod
    def check_part(self, key: str, ann_id: int, image_id: int) -> None:
        """Raises InvalidRecordError unless there is such a part annotation, of this image."""

    @abstractmethod
    def part_mask(self, ann_ids: Ids) -> BoolMask:
        """Returns the union of part annotations of one image, (H, W) bool."""

    def check_part_label(self, key: str, label_id: int, image_id: int) -> None:
        """Raises InvalidRecordError: only some sources have part labels."""
        raise InvalidRecordError(
            f"{key}: label {label_id} of image {image_id}: expected part_ann_ids, "
            f"{self.dataset_name} has no maps of part labels"
        )

    def labeled_mask(self, image_id: int, label_ids: Ids, inside: BoolMask) -> BoolMask:
        """Returns where the label map holds one of the labels, inside an object."""
        raise AssertionError(f"{self.dataset_name} has no part labels: {image_id}, {label_ids}")

    def find_part(self, image_id: int, ids: Ids, inside: BoolMask) -> tuple[Ids, BoolMask] | None:
        """Returns the ids of a part that show inside an object, and its mask; None if none do.

        Args:
            image_id: the image.
            ids: as in `AnnotatedObject.parts`.
            inside: mask of the object, (H, W) bool.
        """
        return ids, self.part_mask(ids)

    def check_image(self, key: str, image_id: int) -> None:
        """Raises InvalidRecordError unless the image is described and its file is there."""
        if image_id not in self.objects.images:
            raise InvalidRecordError(f"{key}: no image {image_id} in {self.objects.name}")
        if image_id not in self._found:
            self._check_files(image_id)
            self._found.add(image_id)

    def check_object(self, key: str, ann_id: int, image_id: int) -> None:
        """Raises InvalidRecordError unless there is such an object, of this image."""
        self.objects.check(key, ann_id, image_id)

    def check_image_size(self, image_id: int) -> None:
        """Raises InvalidRecordError unless the file's header gives the size of the JSON."""
        image, path = self.objects.images[image_id], self.image_path(image_id)
        try:
            with Image.open(path) as picture:
                sizes = [picture.size]
                if picture.getexif().get(_EXIF_ORIENTATION) in _TURNED:
                    sizes.append(picture.size[::-1])
        except OSError as error:
            raise InvalidRecordError(f"{path}: expected a readable image") from error
        if (image.width, image.height) not in sizes:
            raise self._wrong_size(image, path, sizes[0])

    def image(self, image_id: int) -> RgbImage:
        """Returns the pixels in the frame of the masks, (H, W, 3) uint8 RGB.

        That is the frame of the file; a picture that has the annotated size only after the
        turn its EXIF tag asks for is turned.

        Raises:
            InvalidRecordError: not readable, or of another size than the JSON says.
        """
        image, path = self.objects.images[image_id], self.image_path(image_id)
        self.check_image_size(image_id)
        for flags in (cv2.IMREAD_IGNORE_ORIENTATION, 0):
            pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB | flags)
            if pixels is not None and pixels.shape[:2] == (image.height, image.width):
                return np.asarray(pixels, dtype=np.uint8)
        raise InvalidRecordError(f"{path}: expected a readable image")

    def object_mask(self, ann_ids: Ids) -> BoolMask:
        """Returns the union of object annotations of one image, (H, W) bool."""
        return self.objects.union(ann_ids)

    def _check_files(self, image_id: int) -> None:
        path = self.image_path(image_id)
        if not path.is_file():
            raise InvalidRecordError(
                f"{self.objects.name}: image {image_id}: file_name: no file {path.name!r} "
                f"in {path.parent}"
            )

    def _wrong_size(
        self, image: CocoImage, path: Path, size: tuple[int, int]
    ) -> InvalidRecordError:
        return InvalidRecordError(
            f"{self.objects.name}: image {image.id}: expected {image.width} x {image.height} px, "
            f"got {size[0]} x {size[1]} in {path}"
        )


def area_share(area: float | None, image: CocoImage) -> float | None:
    """Returns an area in pixels as a share of its image."""
    return None if area is None else area / (image.width * image.height)


def first_file(candidates: Sequence[Path], what: str) -> Path:
    """Returns the first of several places that holds a file.

    Raises:
        InvalidRecordError: none does.
    """
    for path in candidates:
        if path.is_file():
            return path
    places = ", ".join(str(path) for path in candidates)
    raise InvalidRecordError(f"{what}: expected one of {places}")
