"""The values that the whole product exchanges: groups of images, and named masks in them.

Knows numpy arrays and text. Does not know torch, files, Label Studio or HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Flag, StrEnum, auto
from functools import cached_property
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from calico_model.errors import InvalidImageError, InvalidMaskError

RgbImage = NDArray[np.uint8]
BoolMask = NDArray[np.bool_]
Vector = NDArray[np.float32]

MAX_GROUP_SIZE = 8


class RegionKind(StrEnum):
    """Role of a region in its group (paper, section 3.1); the value is also the shown label."""

    COMMON_OBJECT = "common_object"
    COMMON_PART = "common_part"
    UNIQUE_PART = "unique_part"

    @property
    def is_part(self) -> bool:
        """Whether a region of this kind is a part of an object, not an object."""
        return self is not RegionKind.COMMON_OBJECT


class Supervision(Flag):
    """Which losses a corrected region takes part in.

    TEXT: its name, and that the region is there. MASK: its shape. ABSENCE: no region of this name
    is in this image. REHEARSAL: the prediction was right, and must stay so.
    """

    TEXT = auto()
    MASK = auto()
    ABSENCE = auto()
    REHEARSAL = auto()


@dataclass(frozen=True, eq=False)
class ImageGroup:
    """One to eight images that are segmented together.

    Attributes:
        images: (H_i, W_i, 3) uint8 RGB arrays, made read-only; sizes may differ.
        ids: one stable name per image, unique within the group.

    Raises:
        InvalidImageError: empty or too large group, wrong shape or dtype, repeated ids.
    """

    images: tuple[RgbImage, ...]
    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.images) <= MAX_GROUP_SIZE:
            raise InvalidImageError(
                f"images: expected 1 to {MAX_GROUP_SIZE} images, got {len(self.images)}"
            )
        if len(self.ids) != len(self.images) or len(set(self.ids)) != len(self.ids):
            raise InvalidImageError(
                f"ids: expected {len(self.images)} different names, got {self.ids!r}"
            )
        for index, image in enumerate(self.images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
                raise InvalidImageError(
                    f"images[{index}]: expected (H, W, 3) uint8, got {image.shape} {image.dtype}"
                )
            image.setflags(write=False)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def sizes_hw(self) -> tuple[tuple[int, int], ...]:
        """(height, width) in pixels of each image."""
        return tuple((image.shape[0], image.shape[1]) for image in self.images)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """`image_key` of each image, hashed once."""
        return tuple(image_key(image) for image in self.images)

    def only(self, image_index: int) -> ImageGroup:
        """Returns a group of one image."""
        alone = ImageGroup((self.images[image_index],), (self.ids[image_index],))
        alone.__dict__["keys"] = (self.keys[image_index],)  # nothing is hashed twice
        return alone


def image_key(image: RgbImage) -> str:
    """Returns the content hash of an (H, W, 3) uint8 image, size included."""
    digest = sha256(f"{image.shape[0]}x{image.shape[1]}:".encode())
    digest.update(image.data if image.flags.c_contiguous else image.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class MaskEvidence:
    """The network's own confidences in one of its regions; inference/confidence.py combines them.

    Attributes:
        iou: predicted IoU of the mask, in [0, 1].
        mask: mean foreground probability inside the mask, in [0.5, 1]; 0 of an empty one.
        phrase: mean probability of the name's tokens, in [0, 1].
    """

    iou: float
    mask: float
    phrase: float


@dataclass(frozen=True)
class Likelihood:
    """Log-likelihoods of one question and answer, token by token, natural logarithm.

    Attributes:
        question: of the words of the prompt, images left out.
        answer: of the tokens of the answer, its end included.
    """

    question: tuple[float, ...]
    answer: tuple[float, ...]

    def sum(self) -> float:
        """Log-likelihood of the answer: favours short answers."""
        return math.fsum(self.answer)

    def mean(self) -> float:
        """Log-likelihood per token of the answer."""
        return math.fsum(self.answer) / max(1, len(self.answer))

    def compat(self) -> float:
        """Log-likelihood per token of question and answer, as released Partonomy code reads it."""
        tokens = self.question + self.answer
        return math.fsum(tokens) / max(1, len(tokens))


@dataclass(frozen=True, eq=False)
class PartMask:
    """One named region of one image.

    Attributes:
        image_index: 0-based position of the image in its group.
        kind: role of the region in the group.
        label: the region's own name, lower case, without article ("front wheel").
        mask: (H_i, W_i) bool in the original pixel frame of its image (after EXIF transpose).
        object_label: name of the object a part belongs to, or None.
        part_id: equal for regions that show the same thing in several images, or None.
        score: confidence in [0, 1].
        evidence: what the score was computed from; None for a mask that no network drew.
    """

    image_index: int
    kind: RegionKind
    label: str
    mask: BoolMask
    object_label: str | None = None
    part_id: str | None = None
    score: float = 1.0
    evidence: MaskEvidence | None = None

    def __post_init__(self) -> None:
        if self.mask.dtype != np.bool_ or self.mask.ndim != 2:
            raise InvalidMaskError(
                f"mask: expected (H, W) bool, got {self.mask.shape} {self.mask.dtype}"
            )
        if not 0.0 <= self.score <= 1.0:
            raise InvalidMaskError(f"score: expected a number in [0, 1], got {self.score}")
        self.mask.setflags(write=False)


@dataclass(frozen=True)
class AnswerPhrase:
    """A named thing in one of the model's answers about a group, and where its text begins.

    Attributes:
        kind: the question that is answered.
        label: name of the thing, lower case, without article; empty if the answer gives no name.
        images: 0-based positions in the group, in [SEG] order.
        is_object: True for an object the answer is about, False for a part of it.
        start: 0-based character of the answer's text.
    """

    kind: RegionKind
    label: str
    images: tuple[int, ...]
    is_object: bool
    start: int


@dataclass(frozen=True, eq=False)
class GroupPrediction:
    """The model's answer about one group.

    Attributes:
        parts: regions in answer order, objects first, every image_index < number of images.
        version: the adapter version that computed them.
        answers: raw text per question, for inspection and structure metrics.
        phrases: of answers that the model generated, in the order of the questions and of their
            text; () for answers that were given to the model or read from a file.
    """

    parts: tuple[PartMask, ...]
    version: str
    answers: dict[str, str] = field(default_factory=dict)
    phrases: tuple[AnswerPhrase, ...] = ()

    def of_image(self, image_index: int) -> Iterator[PartMask]:
        """Yields the regions of one image in answer order."""
        return (part for part in self.parts if part.image_index == image_index)


@dataclass(frozen=True, eq=False)
class ComparedObject:
    """The object of one image whose parts are compared with the other images' objects.

    Attributes:
        image_index: 0-based position of the image in its group.
        label: object name, lower case, without article.
        mask: (H_i, W_i) bool in the original pixel frame.
    """

    image_index: int
    label: str
    mask: BoolMask


@dataclass(frozen=True, eq=False)
class LabeledGroup:
    """A group with its truth, as the readers of data sets and the metrics use it.

    Attributes:
        group: the images.
        parts: truth of the three subtasks; same-named regions of an image are one union mask.
            A common object or part has one entry per image of the group, all with one part_id;
            a unique part has exactly one entry.
        objects: the compared object of each image, in image order (at most one per image).
        known: the subtasks whose truth is complete; the others cannot be scored.
    """

    group: ImageGroup
    parts: tuple[PartMask, ...]
    objects: tuple[ComparedObject, ...] = ()
    known: frozenset[RegionKind] = frozenset(RegionKind)

    def of_kind(self, kind: RegionKind) -> tuple[PartMask, ...]:
        """Returns the truth of one subtask, in stored order."""
        return tuple(part for part in self.parts if part.kind is kind)
