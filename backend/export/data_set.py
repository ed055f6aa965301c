"""What an export holds: images, masked instances, groups. Knows no file format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from calico_model.data.records import Rle, read_mask
from calico_model.types import BoolMask, RegionKind


class LeftOut(StrEnum):
    """Why a region is not exported."""

    WITHOUT_LABEL = "without_label"
    UNREADABLE = "unreadable"
    WRONG_SIZE = "wrong_size"
    WITHOUT_IMAGE = "without_image"


@dataclass(frozen=True)
class Instance:
    """One annotated region.

    Attributes:
        image_id: id of its image.
        labels: its names, at least one.
        kind: role of the region in its group, or None.
        rle: its mask, of the size of the image; at least one pixel.
        area: number of pixels.
        task_id: the task it was drawn in.
        annotation_id: its annotation, or None if it comes from a prediction.
        region_id: id of the region in its annotation.
        is_reviewed: a person looked at it.
        part: equal for regions that are linked as the same part, or None.
        is_repeat: an earlier instance of the image has the same labels and the same mask, because
            the picture is in two tasks or the region was drawn twice.
    """

    image_id: int
    labels: tuple[str, ...]
    kind: RegionKind | None
    rle: Rle
    area: int
    task_id: int
    annotation_id: int | None
    region_id: str
    is_reviewed: bool = True
    part: str | None = None
    is_repeat: bool = False

    @property
    def mask(self) -> BoolMask:
        """(H, W) bool, decoded at every access: the masks of a project fill no memory."""
        return read_mask(self.rle, self.rle.size, f"region {self.region_id}")


@dataclass
class ExportedImage:
    """One image, however many tasks show it.

    Attributes:
        id: from 1, in the order of the tasks.
        file_name: inside the folder of images; unique.
        size_hw: (height, width) in pixels, upright.
        task_ids: the tasks that show it.
        unknown: labels of drawings on it that are no masks; "" for a drawing without a label.
    """

    id: int
    file_name: str
    size_hw: tuple[int, int]
    task_ids: list[int] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)

    @property
    def stem(self) -> str:
        """The file name without its ending; unique as well."""
        return self.file_name.rpartition(".")[0]


@dataclass(frozen=True)
class ExportedGroup:
    """The images that one task shows together.

    Attributes:
        task_id: Label Studio's id.
        annotation_ids: the exported annotations; () if a prediction is exported.
        image_ids: in the order of the task; None for an image that could not be fetched.
    """

    task_id: int
    annotation_ids: tuple[int, ...]
    image_ids: tuple[int | None, ...]


@dataclass(frozen=True)
class ExportFailure:
    """An image, or a whole task (`image` is None), that is not exported, and why."""

    task_id: int
    image: str | None
    reason: str


@dataclass(frozen=True)
class DataSet:
    """Everything that is exported.

    Attributes:
        title: of the project.
        labels: those of the labeling config in its order, then others by alphabet.
        images: by rising id.
        instances: in the order of the tasks.
        groups: one per exported task.
        failures: what could not be fetched or read.
        left_out: number of regions that are not exported, by reason.
        skipped: number of tasks that annotators skipped.
        unannotated: number of tasks without an annotation.
    """

    title: str
    labels: tuple[str, ...]
    images: Sequence[ExportedImage]
    instances: Sequence[Instance]
    groups: Sequence[ExportedGroup]
    failures: Sequence[ExportFailure]
    left_out: Mapping[str, int]
    skipped: int = 0
    unannotated: int = 0

    def by_image(self) -> dict[int, list[Instance]]:
        """Returns the instances of each image, each once; [] for an image without any."""
        found: dict[int, list[Instance]] = {image.id: [] for image in self.images}
        for instance in self.instances:
            if not instance.is_repeat:
                found[instance.image_id].append(instance)
        return found

    def label_counts(self) -> dict[str, int]:
        """Returns the number of regions of each label, each once; 0 for a label without any."""
        kept = (instance for instance in self.instances if not instance.is_repeat)
        counts = Counter(label for instance in kept for label in instance.labels)
        return {label: counts[label] for label in self.labels}
