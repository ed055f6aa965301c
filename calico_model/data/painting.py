"""Outlines to pixels: one painting order for the picture and for its maps.

Legend: S is the image side in pixels; outlines are (N, 2) pixel positions, x then y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from calico_model.data.drawings.shapes import Contours
from calico_model.data.styles import TEXTURE_KINDS, Style, shade
from calico_model.types import RgbImage

IdMap = NDArray[np.uint8]

_SUBPIXEL_BITS = 4


@dataclass(frozen=True, eq=False)
class Layer:
    """One outline ready to paint. `object_id` and `part` are 0 for clutter."""

    contours: Contours
    colour: tuple[int, int, int]
    texture: int
    object_id: int = 0
    part: int = 0


def paint(
    rng: np.random.Generator, layers: Sequence[Layer], ground: RgbImage, style: Style
) -> tuple[RgbImage, IdMap, IdMap]:
    """Paints layers over the ground, first to last, and the maps from the very same outlines.

    Args:
        layers: at most 255.
        ground: (S, S, 3) background, painted over in place.
        style: how to render.

    Returns:
        The (S, S, 3) uint8 picture, and per pixel the visible layer's object and part numbers.
    """
    piece_map = np.zeros(ground.shape[:2], np.uint8)
    object_of, part_of, texture_of = (np.zeros(256, np.uint8) for _ in range(3))
    texture_of[0] = rng.integers(TEXTURE_KINDS)
    width = round(rng.uniform(*style.outline) * len(ground))
    ink = (int(style.ink * 255),) * 3
    for number, layer in enumerate(layers, start=1):
        points = fill(ground, layer, layer.colour, line_type=cv2.LINE_AA)
        if style.outline[1]:
            cv2.polylines(ground, points, True, ink, max(width, 1), cv2.LINE_AA, _SUBPIXEL_BITS)
        fill(piece_map, layer, number)
        object_of[number], part_of[number] = layer.object_id, layer.part
        texture_of[number] = layer.texture
    solid = np.where(piece_map > 0, np.uint8(255), np.uint8(0))
    image = shade(rng, style, ground, piece_map, solid, texture_of)
    return image, object_of[piece_map], part_of[piece_map]


def fill(
    target: NDArray[np.uint8],
    layer: Layer,
    value: int | tuple[int, int, int],
    line_type: int = cv2.LINE_8,
) -> list[NDArray[np.int32]]:
    """Fills a layer's outlines and returns them in fixed-point pixels."""
    scale = 1 << _SUBPIXEL_BITS
    points = [np.rint(outline * scale).astype(np.int32) for outline in layer.contours]
    colour = value if isinstance(value, tuple) else (value,)
    cv2.fillPoly(target, points, colour, line_type, _SUBPIXEL_BITS)
    return points
