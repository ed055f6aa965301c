"""From an image to the square that a segmenter sees, and back to the image.

Two frames are in use. SAM and SAM-HQ scale the longer side to the square and pad the rest; SAM 2,
EdgeTAM and SAM 3 stretch the image to the square. The same numbers come out of the image processors
of `transformers`, but no torchvision is needed: PIL scales where their PIL processor is the
reference, and torch's own antialiased interpolation where torchvision, which calls it, is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from calico_model.types import BoolMask, RgbImage

_PRESUMED_LOGIT = 10.0  # of a pixel of an earlier mask; SAM 2 itself reads given masks so


@dataclass(frozen=True)
class Normalisation:
    """How pixels become numbers: value / 255, minus the mean, over the deviation.

    Attributes:
        mean: of red, green and blue, in [0, 1].
        deviation: of red, green and blue, > 0.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    deviation: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def apply(self, pixels: Tensor) -> Tensor:
        """Returns (1, 3, h, w) float32 of (3, h, w) uint8."""
        mean = torch.tensor(self.mean)[:, None, None] * 255
        deviation = torch.tensor(self.deviation)[:, None, None] * 255
        return ((pixels.to(torch.float32) - mean) / deviation)[None]


class Frame(Protocol):
    """The square of one segmenter; `side` is its length in pixels."""

    @property
    def side(self) -> int:
        """Pixels of the square's side."""

    def pixels(self, image: RgbImage) -> Tensor:
        """Returns the (1, 3, side, side) float32 square of an (H, W, 3) uint8 image."""

    def points(self, points: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Returns (..., 2) float32 positions x, y of the image in pixels of the square."""

    def mask_input(self, mask: BoolMask, cells: int) -> Tensor:
        """Returns the (1, 1, cells, cells) float32 logits of an (H, W) mask of the image."""

    def to_image(self, logits: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Returns (n, H, W) logits in pixels of the image from the (n, h, w) of the square."""


@dataclass(frozen=True)
class PaddedFrame:
    """The longer side fills the square; the rest is zero, to the right or below.

    Attributes:
        side: pixels of the square.
        normalisation: of the pixels.
    """

    side: int
    normalisation: Normalisation = Normalisation()

    def pixels(self, image: RgbImage) -> Tensor:
        """See `Frame`."""
        height, width = self._inner(image.shape[0], image.shape[1])
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        values = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
        padding = (0, self.side - width, 0, self.side - height)
        return functional.pad(self.normalisation.apply(values), padding)

    def points(self, points: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """See `Frame`."""
        return _scaled(points, size_hw, self._inner(*size_hw))

    def mask_input(self, mask: BoolMask, cells: int) -> Tensor:
        """See `Frame`; what lies outside the image is outside the mask."""
        height, width = self._inner(mask.shape[0], mask.shape[1])
        filled = functional.pad(
            _resized_mask(mask, (height, width)), (0, self.side - width, 0, self.side - height)
        )
        return _logits(_interpolated(filled, (cells, cells), antialias=True))

    def to_image(self, logits: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """See `Frame`."""
        height, width = self._inner(*size_hw)
        square = _interpolated(logits[None], (self.side, self.side))
        return _interpolated(square[..., :height, :width], size_hw)[0]

    def _inner(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the scaled image in the square."""
        scale = self.side / max(height, width)
        return int(height * scale + 0.5), int(width * scale + 0.5)


@dataclass(frozen=True)
class StretchedFrame:
    """The image is stretched to the square; its aspect is lost.

    Attributes:
        side: pixels of the square.
        normalisation: of the pixels.
    """

    side: int
    normalisation: Normalisation = Normalisation()

    def pixels(self, image: RgbImage) -> Tensor:
        """See `Frame`."""
        values = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        resized = _interpolated(values, (self.side, self.side), antialias=True)[0]
        return self.normalisation.apply(resized)

    def points(self, points: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """See `Frame`."""
        return _scaled(points, size_hw, (self.side, self.side))

    def mask_input(self, mask: BoolMask, cells: int) -> Tensor:
        """See `Frame`."""
        return _logits(_resized_mask(mask, (cells, cells)))

    def to_image(self, logits: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """See `Frame`."""
        return _interpolated(logits[None], size_hw)[0]


def _scaled(points: Tensor, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Tensor:
    scale = torch.tensor([to_hw[1] / from_hw[1], to_hw[0] / from_hw[0]])
    return points.to(torch.float32) * scale


def _interpolated(values: Tensor, size_hw: tuple[int, int], *, antialias: bool = False) -> Tensor:
    return functional.interpolate(
        values, size_hw, mode="bilinear", align_corners=False, antialias=antialias
    )


def _resized_mask(mask: BoolMask, size_hw: tuple[int, int]) -> Tensor:
    """(1, 1, h, w) float32, the covered share of every pixel."""
    values = torch.from_numpy(np.array(mask, np.float32))[None, None]
    return _interpolated(values, size_hw, antialias=True)


def _logits(shares: Tensor) -> Tensor:
    return (2 * shares - 1) * _PRESUMED_LOGIT
