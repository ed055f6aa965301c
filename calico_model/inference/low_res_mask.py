"""Masks before their refinement: decoded logits of low resolution, or a mask drawn by a person.

A decoded mask stays in its small frame until a rectangle of it is needed: its image may have
millions of pixels. The way from the frame to the image is two linear interpolations in each
direction, so both together are one small matrix per direction.
Legend: H x W image, S the network's square side, L logit side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calico_model.inference.images import scaled_size_hw, to_mask
from calico_model.masks import Extent, extent_of
from calico_model.types import BoolMask

_LEAST_LINES = 256  # samples of the longest side, to find the extent of a mask

Logits = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Decoded:
    """A mask as logits of the mask decoder.

    Attributes:
        logits: (L, L) float32 on the CPU, in the network's padded frame.
        size_hw: height and width of the image in pixels.
        side: S.
    """

    logits: Tensor
    size_hw: tuple[int, int]
    side: int

    @classmethod
    def of(cls, logits: Tensor, size_hw: tuple[int, int], side: int) -> Decoded:
        """Makes a mask of (L, L) logits from any device."""
        return cls(logits.detach().float().cpu(), size_hw, side)

    def mask(self) -> BoolMask:
        """Returns the mask of the whole image, (H, W) bool; see `images.to_mask`."""
        return to_mask(self.logits, self.size_hw, self.side)

    def extent(self) -> Extent | None:
        """Returns the rectangle around the mask, None if the mask is empty.

        The mask is sampled on lines closer than half a logit: the rectangle may be half a line
        off, and a region thinner than a line may be missed.
        """
        height, width = self.size_hw
        lines = max(_LEAST_LINES, 2 * self.logits.shape[-1])
        step = max(1.0, max(self.size_hw) / lines)
        rows, columns = max(1, round(height / step)), max(1, round(width / step))
        extent = extent_of(self.sample((0, 0, width, height), (rows, columns)) > 0)
        if extent is None:
            return None
        across, down = width / columns, height / rows
        return extent[0] * across, extent[1] * down, extent[2] * across, extent[3] * down

    def sample(self, place: Sequence[float], view_hw: tuple[int, int]) -> Logits:
        """Returns the logits of a rectangle, sampled at the middles of a view's cells.

        Args:
            place: (x0, y0, x1, y1) in pixels of the image.
            view_hw: rows and columns of the view.
        """
        x0, y0, x1, y1 = place
        (height, width), (rows, columns) = self.size_hw, view_hw
        shown_h, shown_w = scaled_size_hw(self.size_hw, self.side)
        down = self._weights((y0, y1), rows, shown_h / height, shown_h)
        across = self._weights((x0, x1), columns, shown_w / width, shown_w)
        logits: Logits = (down @ self.logits @ across.T).numpy()
        return logits

    def _weights(
        self, interval: tuple[float, float], cells: int, scale: float, shown: int
    ) -> Tensor:
        """Interpolation weights along one side, (cells, L).

        Args:
            interval: in pixels of the image.
            cells: number of samples.
            scale: pixels of the network's frame per pixel of the image.
            shown: pixels of the frame that show the image.
        """
        low, high = interval
        samples = low + (np.arange(cells) + 0.5) * ((high - low) / cells)
        first, share = _neighbours(samples * scale - 0.5, shown)
        frame = _to_frame(self.side, self.logits.shape[-1])
        after = np.minimum(first + 1, shown - 1)
        # The product runs on torch's threads: numpy's own thread pool would compete with them.
        return torch.from_numpy(frame[first] * (1 - share[:, None]) + frame[after] * share[:, None])


Coarse = Decoded | BoolMask
"""A mask to refine: of the decoder, or (H, W) bool drawn by a person."""


def mask_of(coarse: Coarse) -> BoolMask:
    """Returns the (H, W) bool mask without refinement."""
    return coarse.mask() if isinstance(coarse, Decoded) else coarse.copy()


@lru_cache(maxsize=8)
def _to_frame(side: int, logit_side: int) -> Logits:
    """(S, L) weights of the first interpolation, equal to `torch.nn.functional.interpolate`."""
    positions = (np.arange(side) + 0.5) * (logit_side / side) - 0.5
    first, share = _neighbours(positions, logit_side)
    weights = np.zeros((side, logit_side), np.float32)
    rows = np.arange(side)
    np.add.at(weights, (rows, first), 1 - share)
    np.add.at(weights, (rows, np.minimum(first + 1, logit_side - 1)), share)
    return weights


def _neighbours(
    positions: NDArray[np.floating], size: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The cell before each position, and the weight of the next cell; edge cells are repeated."""
    inside = positions.clip(0, size - 1)
    first = inside.astype(np.int64)
    return first, (inside - first).astype(np.float32)
