"""Masks of coarse cells sharpened on the pixels of a photograph: mask edges follow image edges.

A guided filter (He, Sun and Tang 2013): inside small windows every map is a linear function of the
colours, so it changes where the colours change. Needs no training, unlike the mask refiner, which
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
"""Share of the area of a mask's largest connected region; smaller regions are noise, and each costs
the annotator a click."""

_Floats = NDArray[np.float32]
_Doubles = NDArray[np.float64]


class Guide:
    """The filter of one image, for any number of maps.

    Args:
        image: (H, W, 3) uint8 RGB.
    """

    def __init__(self, image: RgbImage) -> None:
        self._size_hw = image.shape[:2]
        scale = min(1.0, _WORKING_SIDE / max(self._size_hw))
        self._height, self._width = (max(1, round(scale * size)) for size in self._size_hw)
        small = cv2.resize(image, (self._width, self._height), interpolation=cv2.INTER_AREA)
        self._colours = [plane / np.float32(255) for plane in cv2.split(np.asarray(small))]
        self._radius = max(2, round(_RADIUS * max(self._height, self._width)))
        self._means = [self._box(plane) for plane in self._colours]
        spread = [
            [
                (self._box(one * other) - mean * other_mean).astype(np.float64)
                for other, other_mean in zip(self._colours, self._means, strict=True)
            ]
            for one, mean in zip(self._colours, self._means, strict=True)
        ]
        for channel in range(3):
            spread[channel][channel] += _SMOOTHNESS
        self._inverse = [[plane.astype(np.float32) for plane in row] for row in _inverted(spread)]

    def sharpen(self, chances: Tensor) -> Tensor:
        """Returns (n, L, L) chances that cover the image as (n, h, w), with the image's edges."""
        maps = [self._filtered(chance) for chance in chances.float().cpu().numpy()]
        return torch.from_numpy(np.stack(maps))

    def mask(self, margin: Tensor) -> BoolMask:
        """Returns an (h, w) margin as a mask, (H, W) bool, True above zero, without fragments."""
        size = self._size_hw[1], self._size_hw[0]
        level = cv2.resize(margin.numpy(), size, interpolation=cv2.INTER_LINEAR)
        return without_fragments(np.asarray(level) > 0)

    def _filtered(self, chance: _Floats) -> _Floats:
        size = self._width, self._height
        wide = np.asarray(cv2.resize(chance, size, interpolation=cv2.INTER_LINEAR), np.float32)
        mean = self._box(wide)
        shared = [
            self._box(colour * wide) - colour_mean * mean
            for colour, colour_mean in zip(self._colours, self._means, strict=True)
        ]
        slopes = [_dot(row, shared) for row in self._inverse]
        level = mean - _dot(slopes, self._means)
        filtered = _dot([self._box(slope) for slope in slopes], self._colours) + self._box(level)
        return np.asarray(filtered.clip(0.0, 1.0), np.float32)

    def _box(self, values: NDArray[Any]) -> _Floats:
        side = 2 * self._radius + 1
        means = cv2.boxFilter(values, -1, (side, side), borderType=cv2.BORDER_REFLECT)
        return np.asarray(means, np.float32)


def _dot(planes: Sequence[_Floats], others: Sequence[_Floats]) -> _Floats:
    """Sum over the channels of the products of (h, w) planes."""
    first, second, third = (plane * other for plane, other in zip(planes, others, strict=True))
    total: _Floats = first + second + third
    return total


def _inverted(matrix: Sequence[Sequence[_Doubles]]) -> list[list[_Doubles]]:
    """The inverse of a symmetric 3 x 3 matrix of (h, w) planes, by its cofactors.

    Doubles: in grey images the cofactors are small differences of large products.
    """
    cofactors = [
        [
            matrix[(row + 1) % 3][(column + 1) % 3] * matrix[(row + 2) % 3][(column + 2) % 3]
            - matrix[(row + 1) % 3][(column + 2) % 3] * matrix[(row + 2) % 3][(column + 1) % 3]
            for column in range(3)
        ]
        for row in range(3)
    ]
    determinant = sum(matrix[0][column] * cofactors[0][column] for column in range(3))
    return [[plane / determinant for plane in row] for row in cofactors]


def without_fragments(mask: BoolMask) -> BoolMask:
    """Removes connected regions of a mask that are small beside the largest one."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 3:
        return mask
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    kept = areas >= _LEAST_FRAGMENT * areas.max()
    remaining: BoolMask = kept[labels] & mask
    return remaining
