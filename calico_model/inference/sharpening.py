"""Brings cells to the pixels of a photograph: edges of the picture become edges of the masks.

A guided filter (He, Sun and Tang 2013): inside small windows every map is a linear function of the
colours around it, so it changes where they do. Needs no training, unlike the mask refiner, which
learned the edges of drawings. Legend: n maps, L logit side, H x W image, h x w working size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calico_model.types import BoolMask, RgbImage

_WORKING_SIDE = 512
_RADIUS = 1 / 60  # of the longest side
_SMOOTHNESS = 1e-4
_LEAST_FRAGMENT = 0.1
"""Of the largest piece of a mask: smaller ones are noise, and each costs a click to remove."""

_Floats = NDArray[np.float32]


class Guide:
    """One image, ready to sharpen any number of maps of it.

    Args:
        image: (H, W, 3) uint8 RGB.
    """

    def __init__(self, image: RgbImage) -> None:
        self._size_hw = image.shape[:2]
        scale = min(1.0, _WORKING_SIDE / max(self._size_hw))
        self._height, self._width = (max(1, round(scale * size)) for size in self._size_hw)
        small = cv2.resize(image, (self._width, self._height), interpolation=cv2.INTER_AREA)
        self._colours = np.asarray(small, np.float32) / 255
        self._radius = max(2, round(_RADIUS * max(self._height, self._width)))
        self._mean = self._box(self._colours)
        spread = np.empty((self._height, self._width, 3, 3), np.float32)
        for row in range(3):
            for column in range(row, 3):
                both = self._colours[..., row] * self._colours[..., column]
                own = self._box(both) - self._mean[..., row] * self._mean[..., column]
                spread[..., row, column] = spread[..., column, row] = own
        self._inverse = np.linalg.inv(spread + _SMOOTHNESS * np.eye(3, dtype=np.float32))

    def sharpen(self, chances: Tensor) -> Tensor:
        """Brings (n, L, L) chances that cover the image to (n, h, w), edges where its edges are."""
        found = [self._filtered(one) for one in chances.float().cpu().numpy()]
        return torch.from_numpy(np.stack(found))

    def mask(self, margin: Tensor) -> BoolMask:
        """Brings an (h, w) margin to the image: (H, W) bool, True above zero, without fragments."""
        size = self._size_hw[1], self._size_hw[0]
        level = cv2.resize(margin.numpy(), size, interpolation=cv2.INTER_LINEAR)
        return without_fragments(np.asarray(level) > 0)

    def _filtered(self, chance: _Floats) -> _Floats:
        size = self._width, self._height
        wide = np.asarray(cv2.resize(chance, size, interpolation=cv2.INTER_LINEAR), np.float32)
        mean = self._box(wide)
        shared = self._box(self._colours * wide[..., None]) - self._mean * mean[..., None]
        slope = (self._inverse @ shared[..., None])[..., 0]
        level = mean - (slope * self._mean).sum(-1)
        found = (self._box(slope) * self._colours).sum(-1) + self._box(level)
        return np.asarray(found.clip(0.0, 1.0), np.float32)

    def _box(self, values: NDArray[Any]) -> _Floats:
        side = 2 * self._radius + 1
        found = cv2.boxFilter(values, -1, (side, side), borderType=cv2.BORDER_REFLECT)
        return np.asarray(found, np.float32)


def without_fragments(mask: BoolMask) -> BoolMask:
    """Removes the pieces of a mask that are small beside its largest."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 3:
        return mask
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    kept = areas >= _LEAST_FRAGMENT * areas.max()
    found: BoolMask = kept[labels] & mask
    return found


def guides_of(images: Sequence[RgbImage]) -> list[Guide]:
    """Prepares every image of a group."""
    return [Guide(image) for image in images]
