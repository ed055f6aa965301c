"""What a segmenter beside CALICO promises: a source of masks, by clicks, boxes, words or exemplars.

A source says what it can do, encodes an image once, and answers from that encoding. CALICO's own
decoder is one source among others. Knows arrays; not files, HTTP or transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from calico_model.errors import InvalidMaskError
from calico_model.inference.prompt import MaskPrompt
from calico_model.types import BoolMask, RgbImage

OWN_SOURCE = "calico"
"""The name of CALICO's own decoder among the sources."""


class Ability(StrEnum):
    """A kind of question that a source answers."""

    CLICK = "click"
    BOX = "box"
    TEXT = "text"
    EXEMPLAR = "exemplar"
    SERIES = "series"


@dataclass(frozen=True)
class SourceDescription:
    """What a source is.

    Attributes:
        name: unique among the sources of a deployment, such as "sam2".
        abilities: what it can be asked.
        weights: hash of its weights; the encodings of equal weights are equal.
        licence: of the weights, in a few words.
        parameters: number of parameters.
    """

    name: str
    abilities: frozenset[Ability]
    weights: str
    licence: str
    parameters: int


@dataclass(frozen=True, eq=False)
class SourceMask:
    """A mask that a source answers with.

    Attributes:
        mask: (H, W) bool in the pixels of the image.
        score: the source's own confidence in [0, 1]; scores of two sources are not comparable.
        label: the asked name that the mask answers; None where no name was asked.

    Raises:
        InvalidMaskError: the score is out of range.
    """

    mask: BoolMask
    score: float
    label: str | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.score <= 1.0:
            raise InvalidMaskError(f"score: expected a number in [0, 1], got {self.score}")


@dataclass(frozen=True, eq=False)
class Encoding:
    """What a source keeps of one image.

    Attributes:
        size_hw: (height, width) of the image in pixels.
        state: the source's own tensors; only the source that made it reads it.
        bytes: memory of the state.
    """

    size_hw: tuple[int, int]
    state: Any
    bytes: int


@runtime_checkable
class Source(Protocol):
    """A segmenter. Threads call it one at a time."""

    def describe(self) -> SourceDescription:
        """Returns what it is and what it can do."""

    def encode(self, image: RgbImage) -> Encoding:
        """Encodes an (H, W, 3) uint8 RGB image; done once per image and kept by the caller."""


@runtime_checkable
class PromptSource(Source, Protocol):
    """A source with the abilities `CLICK`, `BOX` or both."""

    def segment_prompt(self, encoding: Encoding, prompt: MaskPrompt) -> Sequence[SourceMask]:
        """Returns masks for clicks, a box and an earlier mask, best first; at least one."""


@runtime_checkable
class TextSource(Source, Protocol):
    """A source with the ability `TEXT`."""

    def segment_names(self, encoding: Encoding, names: Sequence[str]) -> Sequence[SourceMask]:
        """Returns all instances of every name, each with its name; none where nothing is found."""


@runtime_checkable
class ExemplarSource(Source, Protocol):
    """A source with the ability `EXEMPLAR`."""

    def segment_alike(
        self, encoding: Encoding, exemplar: Encoding, mask: BoolMask
    ) -> Sequence[SourceMask]:
        """Returns what looks like the masked region of another encoded image, best first."""


@runtime_checkable
class SeriesSource(Source, Protocol):
    """A source with the ability `SERIES`."""

    def carry_series(
        self, images: Sequence[RgbImage], accepted: Mapping[int, BoolMask]
    ) -> Mapping[int, SourceMask]:
        """Carries one region through an ordered series.

        Args:
            images: (H_i, W_i, 3) uint8, in order.
            accepted: position -> (H, W) bool, the region where people outlined it; not empty.

        Returns:
            Position -> mask for every image after the first accepted one that has no accepted
            mask; an empty mask where the region is lost.
        """
