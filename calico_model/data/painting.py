"""Outlines to pixels: the painting order of picture and maps, and everything in it without a name.

Background, distractors and occluders have no name; they make the named objects harder to find.
Legend: S is the image side in pixels; outlines are (N, 2) pixel positions, x then y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from calico_model.data.drawings.shapes import Contours, blob, limb, polygon, ring
from calico_model.data.styles import TEXTURE_KINDS, Style, cloud, shade
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


def ground(rng: np.random.Generator, style: Style, size_px: int) -> RgbImage:
    """Paints the cluttered background: two blended colours, a horizon, loose shapes."""
    hue = rng.random()
    colours = [
        np.array(style.ground_colour(hue + rng.normal(0, 0.12), *rng.random(2)), np.float32)
        for _ in range(2)
    ]
    blend = cloud(rng, size_px, int(rng.integers(2, 6)))[..., None]
    ground = (colours[0] * blend + colours[1] * (1 - blend)).astype(np.uint8)
    for _ in range(int(rng.integers(0, 16))):
        reach = size_px * rng.uniform(0.03, 0.22)
        spot = rng.uniform(0, size_px, 2)
        contours = tuple(outline * reach + spot for outline in _random_shape(rng))
        tone = style.ground_colour(hue + rng.normal(0, 0.2), *rng.random(2))
        fill(ground, Layer(contours, tone, 0), tone, line_type=cv2.LINE_AA)
    if rng.random() < 0.35:
        y = size_px * rng.uniform(0.4, 0.8)
        tilt = size_px * rng.normal(0, 0.05)
        floor = polygon((0, y), (size_px, y + tilt), (size_px, size_px), (0, size_px))
        tone = style.ground_colour(hue + rng.normal(0, 0.2), *rng.random(2))
        fill(ground, Layer(floor, tone, 0), tone, line_type=cv2.LINE_AA)
    if rng.random() < 0.4:
        ground = cv2.GaussianBlur(ground, (0, 0), size_px * rng.uniform(0.005, 0.02)).astype(
            np.uint8
        )
    return ground


def distractors(rng: np.random.Generator, style: Style, size_px: int, count: int) -> list[Layer]:
    """Returns things made like objects, of one to three shapes each, that have no name."""
    layers = []
    for _ in range(count):
        spot = rng.uniform(0, size_px, 2)
        for _ in range(int(rng.integers(1, 4))):
            reach = size_px * rng.uniform(0.03, 0.11)
            offset = spot + rng.normal(0, 0.04 * size_px, 2)
            contours = tuple(outline * reach + offset for outline in _random_shape(rng))
            colour = style.colour(*rng.random(3))
            layers.append(Layer(contours, colour, int(rng.integers(TEXTURE_KINDS))))
    return layers


def occluders(
    rng: np.random.Generator,
    style: Style,
    size_px: int,
    centre: NDArray[np.float64],
    extent: float,
) -> list[Layer]:
    """Returns one or two nameless things in front of the main object."""
    layers = []
    for _ in range(int(rng.integers(1, 3))):
        turn = rng.uniform(0, 2 * np.pi)
        spot = centre + extent * rng.uniform(0.15, 0.5) * np.array([np.cos(turn), np.sin(turn)])
        if rng.random() < 0.35:  # a post or a branch across the view
            across = np.array([-np.sin(turn), np.cos(turn)]) * 0.7
            a, b = (spot + across) * size_px, (spot - across) * size_px
            contours = limb([(a[0], a[1]), (b[0], b[1])], size_px * rng.uniform(0.03, 0.07))
        else:
            reach = size_px * extent * rng.uniform(0.1, 0.22)
            contours = tuple(o * reach + spot * size_px for o in _random_shape(rng))
        colour = style.colour(*rng.random(3))
        layers.append(Layer(contours, colour, int(rng.integers(TEXTURE_KINDS))))
    return layers


def _random_shape(rng: np.random.Generator) -> Contours:
    """Returns one shape that belongs to no object."""
    kind = int(rng.integers(5))
    if kind == 0:
        return blob(rng, 0, 0, 1, rng.uniform(0.4, 1), 0.35)
    if kind == 1:
        turn = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 7))))
        return (np.stack([np.cos(turn), np.sin(turn)], axis=1),)
    if kind == 2:
        return ring(0, 0, 1, rng.uniform(0.6, 1), rng.uniform(0.2, 0.5))
    if kind == 3:
        x, y = rng.uniform(-1, 1, 2)
        return limb([(-1, y), (x, -y), (1, x)], rng.uniform(0.1, 0.35))
    turn = np.linspace(0, 2 * np.pi, 2 * int(rng.integers(4, 8)), endpoint=False)
    reach = np.where(np.arange(len(turn)) % 2, rng.uniform(0.35, 0.6), 1.0)
    return (np.stack([reach * np.cos(turn), reach * np.sin(turn)], axis=1),)
