"""Augmented views of a corrected group: its images mirrored, turned, resized and recoloured.

A handful of corrected groups shows too little of a domain; views show the same parts in other
places and other light. Every view is encoded once, when its group is first learned from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from calico_model.modeling.features import ImageFeatures
from calico_model.training.online.example import Example
from calico_model.types import BoolMask, ImageGroup, RgbImage
from calico_model.vocabulary import SIDED

Matrix = NDArray[np.float64]

_TURN_DEG, _RESIZED, _MOVED = 20.0, 0.25, 0.1
_BRIGHTNESS, _TINT = 0.2, 16.0
_KEPT_SHARE = 0.6
_TRIES = 3


def with_views(
    example: Example,
    images: Sequence[RgbImage],
    count: int,
    encode: Callable[[ImageGroup], ImageFeatures],
) -> Example:
    """Adds augmented views to an example; equal images give equal views.

    Args:
        example: of the images.
        images: (H, W, 3) uint8 RGB each.
        count: number of views.
        encode: images to features.
    """
    views = []
    for number in range(count):
        rng = np.random.default_rng((number, *(int(image.sum()) for image in images)))
        warps = [_draw_warp(example, k, rng) for k in range(len(images))]
        changed = tuple(
            _recoloured(_warped(image, warp, cv2.INTER_LINEAR), rng)
            for image, warp in zip(images, warps, strict=True)
        )
        group = ImageGroup(changed, tuple(map(str, range(len(changed)))))
        views.append(_warped_example(example, warps, encode(group)))
    return replace(example, views=tuple(views))


def _warped_example(example: Example, warps: Sequence[Matrix], features: ImageFeatures) -> Example:
    """The example with other features, and its masks moved by the warps of their images."""
    return replace(
        example,
        features=features,
        targets=tuple(
            replace(
                target,
                region=replace(
                    target.region, mask=_moved(target.region.mask, warps[target.region.image_index])
                ),
            )
            for target in example.targets
        ),
        objects=tuple(
            None if part is None else replace(part, mask=_moved(part.mask, warp))
            for part, warp in zip(example.objects, warps, strict=True)
        ),
    )


def _draw_warp(example: Example, image: int, rng: np.random.Generator) -> Matrix:
    """A warp of one image that keeps most of every true mask inside; else a plain mirror image."""
    height, width = example.sizes_hw[image]
    masks = [part.mask for part in example.truth if part.image_index == image]
    mirrored = not any(SIDED.search(label) for label in example.labels) and rng.random() < 0.5
    for _ in range(_TRIES):
        turn = math.radians(rng.uniform(-_TURN_DEG, _TURN_DEG))
        size = math.exp(rng.uniform(-_RESIZED, _RESIZED))
        move = rng.uniform(-_MOVED, _MOVED, 2) * (width, height)
        warp = _matrix(width, height, turn, size, move, mirrored)
        if all(_moved(mask, warp).sum() > _KEPT_SHARE * size**2 * mask.sum() for mask in masks):
            return warp
    return _matrix(width, height, 0.0, 1.0, np.zeros(2), mirrored)


def _matrix(
    width: int, height: int, turn: float, size: float, move: NDArray[np.float64], mirrored: bool
) -> Matrix:
    """(2, 3) map from old to new pixels: around the centre, then moved."""
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    cos, sin = size * math.cos(turn), size * math.sin(turn)
    linear = np.array([[cos, -sin], [sin, cos]]) @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    return np.column_stack([linear, centre + move - linear @ centre])


def _warped(array: NDArray[np.uint8], warp: Matrix, how: int) -> NDArray[np.uint8]:
    height, width = array.shape[:2]
    border = cv2.BORDER_REFLECT if array.ndim == 3 else cv2.BORDER_CONSTANT
    moved = cv2.warpAffine(array, warp, (width, height), flags=how, borderMode=border)
    return np.asarray(moved, dtype=np.uint8)


def _moved(mask: BoolMask, warp: Matrix) -> BoolMask:
    return _warped(mask.astype(np.uint8), warp, cv2.INTER_NEAREST) > 0


def _recoloured(image: NDArray[np.uint8], rng: np.random.Generator) -> RgbImage:
    gain = rng.uniform(1 - _BRIGHTNESS, 1 + _BRIGHTNESS)
    tint = rng.uniform(-_TINT, _TINT, 3)
    changed: RgbImage = np.clip(image * gain + tint, 0, 255).astype(np.uint8)
    return changed
