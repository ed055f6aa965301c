"""One picture with exact maps: objects in a pose, clutter behind, distractors and occluders.

The image and both maps are painted from the same outlines in the same order.
Legend: S is the image side in pixels; outlines in a scene are (N, 2) pixel positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from calico_model.data.catalogue import CATEGORIES, PART_NAMES, category
from calico_model.data.drawings.shapes import Contours, Piece, blob, limb, polygon, ring
from calico_model.data.styles import TEXTURE_KINDS, Style, cloud, shade
from calico_model.types import RgbImage

IdMap = NDArray[np.uint8]

_PART_CODE = {name: code for code, name in enumerate(PART_NAMES, start=1)}
_SUBPIXEL_BITS = 4
_MIN_MAIN_SHARE = 0.6


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture with its truth.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        object_map: (S, S) uint8, 0 background, 1 the main object, 2 and up the others.
        part_map: (S, S) uint8, 0 where no part, else 1 + index into `PART_NAMES`.
        categories: name of object 1, 2, ...
        style: name of the rendering style.
    """

    image: RgbImage
    object_map: IdMap
    part_map: IdMap
    categories: tuple[str, ...]
    style: str


@dataclass(frozen=True, eq=False)
class Instance:
    """One individual object: its shape and its colours, independent of pose and style.

    Attributes:
        category: its name.
        pieces: outlines in the object frame, in painting order.
        paints: per piece (hue, saturation, value) positions in [0, 1].
        textures: per piece, below `TEXTURE_KINDS`.
    """

    category: str
    pieces: tuple[Piece, ...]
    paints: tuple[tuple[float, float, float], ...]
    textures: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Layer:
    """One outline ready to paint. `object_id` and `part` are 0 for clutter."""

    contours: Contours
    colour: tuple[int, int, int]
    texture: int
    object_id: int = 0
    part: int = 0


def draw_instance(rng: np.random.Generator, name: str, extras: frozenset[str]) -> Instance:
    """Draws an individual of a category with the given optional parts."""
    pieces = tuple(category(name).build(rng, extras))
    parts = sorted({piece.part for piece in pieces})
    # Evenly spread brightness, so that neighbours differ even where their hues agree.
    values = (rng.permutation(len(parts)) + rng.random(len(parts))) / len(parts)
    by_part = {
        part: (*_hue(rng, name, part), float(value))
        for part, value in zip(parts, values, strict=True)
    }
    if rng.random() < 0.25:  # one material: only shape and shade tell the parts apart
        hue, saturation, _ = by_part[parts[0]]
        by_part = {part: (hue, saturation, value) for part, (_, _, value) in by_part.items()}
    kinds = {part: int(rng.integers(TEXTURE_KINDS)) for part in parts}
    paints = tuple(
        (hue, saturation, float(np.clip(value + rng.uniform(-0.06, 0.06), 0, 1)))
        for hue, saturation, value in (by_part[piece.part] for piece in pieces)
    )
    return Instance(name, pieces, paints, tuple(kinds[piece.part] for piece in pieces))


def compose_scene(
    rng: np.random.Generator,
    main: Instance,
    others: Sequence[Instance],
    *,
    style: Style,
    size_px: int,
) -> Scene:
    """Draws one picture of the main object, with smaller ones beside or behind it.

    Args:
        main: the largest object, 32 to 88 % of the image side.
        others: at most two smaller ones; each stays visible beside the main one.
        style: how to render.
        size_px: image side S.

    Returns:
        A scene whose main object is object 1 and whose others follow in the given order.
    """
    extent = rng.uniform(0.5, 0.88) if rng.random() < 0.85 else rng.uniform(0.32, 0.5)
    centre = np.clip(rng.normal(0.5, 0.09, 2), 0.45 * extent, 1 - 0.45 * extent)
    main_layers = _place(rng, main, 1, style, extent * size_px, centre * size_px)
    behind = _distractors(rng, style, size_px, int(rng.integers(0, 4)))
    front: list[_Layer] = []
    for object_id, other in enumerate(others, start=2):
        small = min(rng.uniform(0.2, 0.36), 0.55 * extent)
        spot = _free_spot(rng, centre, object_id, small)
        layers = _place(rng, other, object_id, style, small * size_px, spot * size_px)
        (front if rng.random() < 0.35 else behind).extend(layers)
    occluders: list[_Layer] = []
    if rng.random() < 0.28:
        occluders = _occluders(rng, style, size_px, centre, extent)
    layers = [*behind, *main_layers, *front]
    if not _is_main_visible(layers + occluders, main_layers, size_px):
        layers, occluders = [*front, *behind, *main_layers], []
    return _render(rng, [*layers, *occluders], (main, *others), style, size_px)


def _hue(rng: np.random.Generator, name: str, part: str) -> tuple[float, float]:
    """Draws hue and saturation: usually any, sometimes near the habit of the category's part."""
    hue = rng.random()
    if rng.random() < 0.35:
        habit = CATEGORIES.index(name) * 0.618 + _PART_CODE[part] * 0.271
        hue = (habit + rng.normal(0, 0.04)) % 1.0
    return float(hue), float(rng.random())


def _place(
    rng: np.random.Generator,
    instance: Instance,
    object_id: int,
    style: Style,
    side_px: float,
    centre_px: NDArray[np.float64],
) -> list[_Layer]:
    """Poses an instance so that its longer side measures `side_px`."""
    outlines = [outline for piece in instance.pieces for outline in piece.contours]
    ends = np.cumsum([len(outline) for outline in outlines])
    points = _pose(rng, np.concatenate(outlines), category(instance.category).spin_deg)
    low, high = points.min(axis=0), points.max(axis=0)
    points = (points - (low + high) / 2) * (side_px / (high - low).max()) + centre_px
    moved = iter(np.split(points, ends[:-1]))
    return [
        _Layer(
            tuple(next(moved) for _ in piece.contours),
            style.colour(*paint),
            texture,
            object_id,
            _PART_CODE[piece.part],
        )
        for piece, paint, texture in zip(
            instance.pieces, instance.paints, instance.textures, strict=True
        )
    ]


def _pose(
    rng: np.random.Generator, points: NDArray[np.float64], spin_deg: float
) -> NDArray[np.float64]:
    """Applies flip, shear, unequal scale, perspective and rotation to (N, 2) points."""
    flip = rng.choice([-1.0, 1.0])
    turn = np.deg2rad(np.clip(rng.normal(0, spin_deg / 2), -spin_deg, spin_deg))
    skew, stretch = rng.normal(0, 0.1), rng.uniform(0.82, 1.2)
    linear = np.array([[flip * stretch, flip * skew], [rng.normal(0, 0.05), 1.0]])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    flat = points @ linear.T
    depth = 1.0 + np.clip(flat @ rng.uniform(-0.2, 0.2, 2), -0.35, 0.35)
    posed: NDArray[np.float64] = (flat / depth[:, None]) @ rotation.T
    return posed


def _free_spot(
    rng: np.random.Generator, centre: NDArray[np.float64], object_id: int, extent: float
) -> NDArray[np.float64]:
    """Returns a place for a small object, far from the main one and on its own side."""
    margin = extent * 0.48
    spots = rng.uniform(margin, 1 - margin, (6, 2))
    spots[:, 0] = np.where((spots[:, 0] > 0.5) == (object_id == 2), spots[:, 0], 1 - spots[:, 0])
    best: NDArray[np.float64] = spots[np.abs(spots - centre).max(axis=1).argmax()]
    return best


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


def _distractors(rng: np.random.Generator, style: Style, size_px: int, count: int) -> list[_Layer]:
    """Returns things made like objects, of one to three shapes each, that have no name."""
    layers = []
    for _ in range(count):
        spot = rng.uniform(0, size_px, 2)
        for _ in range(int(rng.integers(1, 4))):
            reach = size_px * rng.uniform(0.03, 0.11)
            offset = spot + rng.normal(0, 0.04 * size_px, 2)
            contours = tuple(outline * reach + offset for outline in _random_shape(rng))
            colour = style.colour(*rng.random(3))
            layers.append(_Layer(contours, colour, int(rng.integers(TEXTURE_KINDS))))
    return layers


def _occluders(
    rng: np.random.Generator,
    style: Style,
    size_px: int,
    centre: NDArray[np.float64],
    extent: float,
) -> list[_Layer]:
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
        layers.append(_Layer(contours, colour, int(rng.integers(TEXTURE_KINDS))))
    return layers


def _is_main_visible(layers: list[_Layer], main: list[_Layer], size_px: int) -> bool:
    """Says whether enough of the main object shows and no other object shows more."""
    alone = np.zeros((size_px, size_px), np.uint8)
    together = np.zeros((size_px, size_px), np.uint8)
    for layer in main:
        _fill(alone, layer, 1)
    for layer in layers:
        _fill(together, layer, layer.object_id)
    seen = np.bincount(together.ravel(), minlength=4)
    whole = int(np.count_nonzero(alone))
    return bool(seen[1] >= _MIN_MAIN_SHARE * whole and seen[1] > seen[2:].max())


def _render(
    rng: np.random.Generator,
    layers: list[_Layer],
    objects: tuple[Instance, ...],
    style: Style,
    size_px: int,
) -> Scene:
    """Paints the picture and, from the very same outlines, the maps."""
    canvas = _ground(rng, style, size_px)
    piece_map = np.zeros((size_px, size_px), np.uint8)
    object_of, part_of, texture_of = (np.zeros(256, np.uint8) for _ in range(3))
    texture_of[0] = rng.integers(TEXTURE_KINDS)
    width = round(rng.uniform(*style.outline) * size_px)
    ink = (int(style.ink * 255),) * 3
    for number, layer in enumerate(layers, start=1):
        points = _fill(canvas, layer, layer.colour, line_type=cv2.LINE_AA)
        if style.outline[1]:
            cv2.polylines(canvas, points, True, ink, max(width, 1), cv2.LINE_AA, _SUBPIXEL_BITS)
        _fill(piece_map, layer, number)
        object_of[number], part_of[number] = layer.object_id, layer.part
        texture_of[number] = layer.texture
    solid = np.where(piece_map > 0, np.uint8(255), np.uint8(0))
    return Scene(
        image=shade(rng, style, canvas, piece_map, solid, texture_of),
        object_map=object_of[piece_map],
        part_map=part_of[piece_map],
        categories=tuple(instance.category for instance in objects),
        style=style.name,
    )


def _fill(
    target: NDArray[np.uint8],
    layer: _Layer,
    value: int | tuple[int, int, int],
    line_type: int = cv2.LINE_8,
) -> list[NDArray[np.int32]]:
    """Fills a layer's outlines and returns them in fixed-point pixels."""
    scale = 1 << _SUBPIXEL_BITS
    points = [np.rint(outline * scale).astype(np.int32) for outline in layer.contours]
    colour = value if isinstance(value, tuple) else (value,)
    cv2.fillPoly(target, points, colour, line_type, _SUBPIXEL_BITS)
    return points


def _ground(rng: np.random.Generator, style: Style, size_px: int) -> RgbImage:
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
        _fill(ground, _Layer(contours, tone, 0), tone, line_type=cv2.LINE_AA)
    if rng.random() < 0.35:
        y = size_px * rng.uniform(0.4, 0.8)
        tilt = size_px * rng.normal(0, 0.05)
        floor = polygon((0, y), (size_px, y + tilt), (size_px, size_px), (0, size_px))
        tone = style.ground_colour(hue + rng.normal(0, 0.2), *rng.random(2))
        _fill(ground, _Layer(floor, tone, 0), tone, line_type=cv2.LINE_AA)
    if rng.random() < 0.4:
        ground = cv2.GaussianBlur(ground, (0, 0), size_px * rng.uniform(0.005, 0.02)).astype(
            np.uint8
        )
    return ground
