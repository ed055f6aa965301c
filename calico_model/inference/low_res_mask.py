"""Masks before they are sharpened: as the decoder drew them, or as somebody handed them over.

A decoder's mask of a 32 x 32 frame stays in that frame until somebody looks at a place of it: its
image may have a million pixels. The way to any of them is two linear interpolations, one after
the other in each direction, so both together are one small matrix per direction.
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
from calico_model.types import BoolMask

_LEAST_LINES = 256  # of the longest side, looked at to find where a mask is

Logits = NDArray[np.float32]
Extent = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in pixels of the image."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """A mask as the decoder drew it.

    Attributes:
        logits: (L, L) float32 on the CPU, in the network's padded frame.
        size_hw: height and width of its image in pixels.
        side: S.
    """

    logits: Tensor
    size_hw: tuple[int, int]
    side: int

    @classmethod
    def of(cls, logits: Tensor, size_hw: tuple[int, int], side: int) -> Decoded:
        """Takes (L, L) logits from any device."""
        return cls(logits.detach().float().cpu(), size_hw, side)

    def mask(self) -> BoolMask:
        """Returns all of it, (H, W) bool; see `images.to_mask`."""
        return to_mask(self.logits, self.size_hw, self.side)

    def extent(self) -> Extent | None:
        """Returns the rectangle of the mask, None if it is empty.

        It is looked for on lines closer than half a logit: a rim may be half a line off, and what
        is thinner than a line may be missed.
        """
        height, width = self.size_hw
        lines = max(_LEAST_LINES, 2 * self.logits.shape[-1])
        step = max(1.0, max(self.size_hw) / lines)
        rows, columns = max(1, round(height / step)), max(1, round(width / step))
        found = extent_of(self.seen((0, 0, width, height), (rows, columns)) > 0)
        if found is None:
            return None
        across, down = width / columns, height / rows
        return found[0] * across, found[1] * down, found[2] * across, found[3] * down

    def seen(self, place: Sequence[float], view_hw: tuple[int, int]) -> Logits:
        """Returns the logits of a rectangle at the middles of a view's cells.

        Args:
            place: (x0, y0, x1, y1) in pixels of the image.
            view_hw: rows and columns of the view.
        """
        x0, y0, x1, y1 = place
        (height, width), (rows, columns) = self.size_hw, view_hw
        shown_h, shown_w = scaled_size_hw(self.size_hw, self.side)
        down = self._way((y0, y1), rows, shown_h / height, shown_h)
        across = self._way((x0, x1), columns, shown_w / width, shown_w)
        found: Logits = (down @ self.logits @ across.T).numpy()
        return found

    def _way(self, stretch: tuple[float, float], cells: int, scale: float, shown: int) -> Tensor:
        """(cells, L) weights of the logits along one side, over the network's frame."""
        low, high = stretch
        at = low + (np.arange(cells) + 0.5) * ((high - low) / cells)
        first, share = _neighbours(at * scale - 0.5, shown)
        frame = _to_frame(self.side, self.logits.shape[-1])
        after = np.minimum(first + 1, shown - 1)
        # torch's threads, not numpy's: two pools that wait for work would be in each other's way
        return torch.from_numpy(frame[first] * (1 - share[:, None]) + frame[after] * share[:, None])


Coarse = Decoded | BoolMask
"""A mask to sharpen: the decoder's; or (H, W) bool, as somebody drew it."""


def mask_of(coarse: Coarse) -> BoolMask:
    """Returns the (H, W) mask as it is."""
    return coarse.mask() if isinstance(coarse, Decoded) else coarse.copy()


def extent_of(mask: BoolMask) -> Extent | None:
    """Returns (x0, y0, x1, y1) around the True pixels, None if there are none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


@lru_cache(maxsize=8)
def _to_frame(side: int, logit_side: int) -> Logits:
    """(S, L) weights of the first interpolation, as `torch.nn.functional.interpolate` takes it."""
    places = (np.arange(side) + 0.5) * (logit_side / side) - 0.5
    first, share = _neighbours(places, logit_side)
    weights = np.zeros((side, logit_side), np.float32)
    at = np.arange(side)
    np.add.at(weights, (at, first), 1 - share)
    np.add.at(weights, (at, np.minimum(first + 1, logit_side - 1)), share)
    return weights


def _neighbours(
    places: NDArray[np.floating], size: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The cell before each place, and the share of the one after it; the edges go on forever."""
    inside = places.clip(0, size - 1)
    first = inside.astype(np.int64)
    return first, (inside - first).astype(np.float32)
