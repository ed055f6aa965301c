"""One picture with exact maps: objects in a pose, clutter behind, distractors and occluders.

The image and both maps are painted from the same outlines in the same order.
Legend: S is the image side in pixels; outlines in a scene are (N, 2) pixel positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calico_model.data.catalogue import CATEGORIES, PART_NAMES, category
from calico_model.data.drawings.shapes import Shape
from calico_model.data.painting import IdMap, Layer, distractors, fill, ground, occluders, paint
from calico_model.data.styles import TEXTURE_KINDS, Style
from calico_model.types import RgbImage

_PART_CODE = {name: code for code, name in enumerate(PART_NAMES, start=1)}
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
class DrawnObject:
    """One object to draw: its shape and its colours, independent of pose and style.

    Attributes:
        category: its name.
        pieces: outlines in the object frame, in painting order.
        paints: per piece (hue, saturation, value) positions in [0, 1].
        textures: per piece, below `TEXTURE_KINDS`.
    """

    category: str
    pieces: tuple[Shape, ...]
    paints: tuple[tuple[float, float, float], ...]
    textures: tuple[int, ...]


def draw_instance(rng: np.random.Generator, name: str, extras: frozenset[str]) -> DrawnObject:
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
    return DrawnObject(name, pieces, paints, tuple(kinds[piece.part] for piece in pieces))


def compose_scene(
    rng: np.random.Generator,
    main: DrawnObject,
    others: Sequence[DrawnObject],
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
    main_layers = place_object(rng, main, 1, style, extent * size_px, centre * size_px)
    behind = distractors(rng, style, size_px, int(rng.integers(0, 4)))
    front: list[Layer] = []
    for object_id, other in enumerate(others, start=2):
        small = min(rng.uniform(0.2, 0.36), 0.55 * extent)
        spot = _free_spot(rng, centre, object_id, small)
        layers = place_object(rng, other, object_id, style, small * size_px, spot * size_px)
        (front if rng.random() < 0.35 else behind).extend(layers)
    obstacles: list[Layer] = []
    if rng.random() < 0.28:
        obstacles = occluders(rng, style, size_px, centre, extent)
    layers = [*behind, *main_layers, *front]
    if not _is_main_visible(layers + obstacles, main_layers, size_px):
        layers, obstacles = [*front, *behind, *main_layers], []
    image, object_map, part_map = paint(
        rng, [*layers, *obstacles], ground(rng, style, size_px), style
    )
    names = tuple(instance.category for instance in (main, *others))
    return Scene(image, object_map, part_map, names, style.name)


def _hue(rng: np.random.Generator, name: str, part: str) -> tuple[float, float]:
    """Draws hue and saturation: usually any, sometimes near the habit of the category's part."""
    hue = rng.random()
    if rng.random() < 0.35:
        habit = CATEGORIES.index(name) * 0.618 + _PART_CODE[part] * 0.271
        hue = (habit + rng.normal(0, 0.04)) % 1.0
    return float(hue), float(rng.random())


def place_object(
    rng: np.random.Generator,
    instance: DrawnObject,
    object_id: int,
    style: Style,
    side_px: float,
    centre_px: NDArray[np.float64],
) -> list[Layer]:
    """Poses an instance so that its longer side measures `side_px`."""
    outlines = [outline for piece in instance.pieces for outline in piece.contours]
    ends = np.cumsum([len(outline) for outline in outlines])
    points = _pose(rng, np.concatenate(outlines), category(instance.category).spin_deg)
    low, high = points.min(axis=0), points.max(axis=0)
    points = (points - (low + high) / 2) * (side_px / (high - low).max()) + centre_px
    moved = iter(np.split(points, ends[:-1]))
    return [
        Layer(
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


def _is_main_visible(layers: list[Layer], main: list[Layer], size_px: int) -> bool:
    """Says whether enough of the main object shows and no other object shows more."""
    alone = np.zeros((size_px, size_px), np.uint8)
    together = np.zeros((size_px, size_px), np.uint8)
    for layer in main:
        fill(alone, layer, 1)
    for layer in layers:
        fill(together, layer, layer.object_id)
    counts = np.bincount(together.ravel(), minlength=4)
    whole = int(np.count_nonzero(alone))
    return bool(counts[1] >= _MIN_MAIN_SHARE * whole and counts[1] > counts[2:].max())
