"""A detector of named boxes and a source of masks make a source that answers words.

Grounding DINO and OWLv2 find boxes; any source with the ability `BOX` outlines what is in them.
Boxes of one name that mean the same thing are suppressed. Knows arrays and the two protocols.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from calico_model.errors import InvalidConfigError, InvalidMaskError
from calico_model.inference.prompt import Box, MaskPrompt
from calico_model.masks import extent_of
from calico_model.sources.source import (
    Ability,
    Encoding,
    PromptSource,
    Source,
    SourceDescription,
    SourceMask,
)
from calico_model.types import BoolMask, RgbImage

_SAME_THING = 0.7  # IoU of two boxes of one name
_MOST_BOXES = 100  # per name: each costs a mask


@dataclass(frozen=True)
class Detection:
    """A box that a detector found.

    Attributes:
        box: in pixels of the image, inside it.
        score: in [0, 1].
        name: what it was asked for; None where it was an exemplar.
    """

    box: Box
    score: float
    name: str | None = None


class Detector(Protocol):
    """Finds boxes by name. Threads call it one at a time."""

    @property
    def parameters(self) -> int:
        """Number of its parameters."""

    def encode(self, image: RgbImage) -> tuple[Any, int]:
        """Returns what it keeps of an image, and the bytes of that."""

    def detect(
        self, state: Any, size_hw: tuple[int, int], names: Sequence[str]
    ) -> Sequence[Detection]:
        """Returns the boxes of all names, best first."""


@runtime_checkable
class ExemplarDetector(Protocol):
    """Finds boxes by a box of another image."""

    def detect_alike(
        self, state: Any, size_hw: tuple[int, int], exemplar: Any, box: Box, of_hw: tuple[int, int]
    ) -> Sequence[Detection]:
        """Returns boxes of what a box of another image, of size `of_hw`, shows; best first."""


class DetectorSource:
    """Words, and exemplars where the detector knows them, to masks; clicks as its source of masks.

    Args:
        detector: finds the boxes.
        masks: outlines them.
        description: name, licence and hash of the detector's weights; what it can do follows.

    Raises:
        InvalidConfigError: the source of masks does not answer boxes.
    """

    def __init__(
        self, detector: Detector, masks: PromptSource, description: SourceDescription
    ) -> None:
        outlines = masks.describe()
        if Ability.BOX not in outlines.abilities:
            raise InvalidConfigError(
                f"source {description.name}: expected a source of masks that answers boxes, "
                f"got {outlines.name}"
            )
        self._detector, self._masks = detector, masks
        prompts = {Ability.CLICK, Ability.BOX}
        abilities = {Ability.TEXT} | (outlines.abilities & prompts)
        if isinstance(detector, ExemplarDetector):
            abilities.add(Ability.EXEMPLAR)
        self._description = SourceDescription(
            description.name,
            frozenset(abilities),
            f"{description.weights}-{outlines.weights}",
            description.licence,
            detector.parameters + outlines.parameters,
        )

    def describe(self) -> SourceDescription:
        """Returns what it is; the weights and parameters are those of both models."""
        return self._description

    def encode(self, image: RgbImage) -> Encoding:
        """Encodes an image for the detector and for the source of masks."""
        state, nbytes = self._detector.encode(image)
        outlined = self._masks.encode(image)
        return Encoding(outlined.size_hw, (state, outlined), nbytes + outlined.bytes)

    def segment_names(self, encoding: Encoding, names: Sequence[str]) -> Sequence[SourceMask]:
        """Returns a mask per box of every name, best first per name."""
        state, outlined = encoding.state
        found = self._detector.detect(state, encoding.size_hw, names) if names else []
        return [
            mask
            for name in names
            for mask in self._outline(outlined, [one for one in found if one.name == name])
        ]

    def segment_alike(
        self, encoding: Encoding, exemplar: Encoding, mask: BoolMask
    ) -> Sequence[SourceMask]:
        """Returns masks of what the box around a mask of another image shows.

        Raises:
            InvalidMaskError: the mask is empty or has another size, or only names can be asked.
        """
        if not isinstance(self._detector, ExemplarDetector):
            raise InvalidMaskError(f"exemplar: {self._description.name} answers names only")
        box = box_around(mask, exemplar.size_hw)
        state, outlined = encoding.state
        found = self._detector.detect_alike(
            state, encoding.size_hw, exemplar.state[0], box, exemplar.size_hw
        )
        return self._outline(outlined, found)

    def segment_prompt(self, encoding: Encoding, prompt: MaskPrompt) -> Sequence[SourceMask]:
        """Returns what the source of masks answers to clicks or a box."""
        return self._masks.segment_prompt(encoding.state[1], prompt)

    def _outline(self, outlined: Encoding, found: Sequence[Detection]) -> list[SourceMask]:
        masks = []
        for one in suppress(found)[:_MOST_BOXES]:
            answers = self._masks.segment_prompt(outlined, MaskPrompt(box=one.box))
            if answers and answers[0].mask.any():
                masks.append(SourceMask(answers[0].mask, one.score, one.name))
        return masks


def open_detector_source(
    name: str, detector: Detector, masks: Source, weights: str, licence: str
) -> DetectorSource:
    """Joins a loaded detector and a loaded source of masks.

    Raises:
        InvalidConfigError: the source of masks does not answer boxes.
    """
    if not isinstance(masks, PromptSource):
        raise InvalidConfigError(
            f"source {name}: expected a source of masks that answers boxes, "
            f"got {masks.describe().name}"
        )
    about = SourceDescription(name, frozenset(), weights, licence, 0)
    return DetectorSource(detector, masks, about)


def suppress(found: Sequence[Detection]) -> list[Detection]:
    """Keeps the best of the boxes of one name that overlap (non-maximum suppression)."""
    kept: list[Detection] = []
    for one in sorted(found, key=lambda detection: -detection.score):
        rivals = [other.box for other in kept if other.name == one.name]
        if all(box_iou(one.box, rival) < _SAME_THING for rival in rivals):
            kept.append(one)
    return kept


def box_iou(a: Box, b: Box) -> float:
    """Returns intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / (sum(areas) - both)


def box_around(mask: BoolMask, size_hw: tuple[int, int]) -> Box:
    """Returns the box around a mask: x0, y0, x1, y1 in pixels.

    Raises:
        InvalidMaskError: the mask is empty or has another size than its image.
    """
    extent = extent_of(mask)
    if mask.shape != size_hw or extent is None:
        raise InvalidMaskError(
            f"exemplar: expected a mask of {size_hw} that is not empty, got one of {mask.shape}"
        )
    return extent


def inside(box: NDArray[np.floating[Any]], size_hw: tuple[int, int]) -> Box | None:
    """Clips (4,) x0, y0, x1, y1 to an image; None where less than a pixel is left."""
    height, width = size_hw
    x0, x1 = (float(value) for value in box[[0, 2]].clip(0, width))
    y0, y1 = (float(value) for value in box[[1, 3]].clip(0, height))
    return (x0, y0, x1, y1) if x1 - x0 >= 1 and y1 - y0 >= 1 else None
