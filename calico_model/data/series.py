"""Drawn series: one object that moves, turns and grows from frame to frame, with exact truth.

The object is posed once; every frame moves its outlines a little further. Something may pass in
front of it, and in some series it leaves the picture. Style, ground and light stay.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calico_model.data.casting import (
    SceneSplit,
    draw_instances,
    draw_mains,
    draw_other,
    draw_styles,
)
from calico_model.data.catalogue import PART_NAMES
from calico_model.data.painting import Layer, distractors, ground, occluders, paint
from calico_model.data.scene import Scene, draw_instance, place_object
from calico_model.errors import InvalidConfigError
from calico_model.types import BoolMask

_MAIN = 1  # number of the main object in a scene
_PASSES, _LEAVES = 0.35, 0.2  # chance that something passes in front, that the object leaves
_STEP, _TURN, _GROWTH, _SKEW = 0.014, 2.2, 0.018, 0.014
"""Of the motion per frame: share of the side, degrees, and changes of size and shape."""
_STEADY = 0.8  # how much of its speed a motion keeps
_LEAST_SHARE = 0.0012  # of the picture that a part must cover to be there


@dataclass(frozen=True)
class _Motion:
    """Where the object is in a frame, against the first one.

    Attributes:
        shift: (x, y) in pixels.
        linear: (2, 2) turn, growth and skew about the object's middle.
    """

    shift: NDArray[np.float64]
    linear: NDArray[np.float64]

    def apply(self, layer: Layer, middle: NDArray[np.float64]) -> Layer:
        moved = tuple((o - middle) @ self.linear.T + middle + self.shift for o in layer.contours)
        return replace(layer, contours=moved)


def draw_series(
    rng: np.random.Generator,
    frames: int,
    *,
    split: SceneSplit = SceneSplit.SEEN,
    size_px: int = 256,
) -> tuple[Scene, ...]:
    """Draws a series of pictures of one moving object.

    Args:
        rng: source of all choices.
        frames: number of pictures, at least 2.
        split: hold-out to draw from.
        size_px: image side.

    Raises:
        InvalidConfigError: fewer than 2 frames.
    """
    if frames < 2:
        raise InvalidConfigError(f"frames: expected at least 2, got {frames}")
    name = draw_mains(rng, split, 1)
    main = draw_instances(rng, split, name)[0]
    style = draw_styles(rng, split, 1)[0]
    extent = rng.uniform(0.4, 0.66)
    centre = np.clip(rng.normal(0.5, 0.08, 2), 0.4, 0.6) * size_px
    layers = place_object(rng, main, _MAIN, style, extent * size_px, centre)
    behind = distractors(rng, style, size_px, int(rng.integers(1, 4)))
    other = draw_other(rng, name)
    spot = np.array([rng.uniform(0.1, 0.3), rng.uniform(0.2, 0.8)]) * size_px
    beside = place_object(
        rng,
        draw_instance(rng, other, frozenset()),
        _MAIN + 1,
        style,
        rng.uniform(0.2, 0.3) * size_px,
        spot if centre[0] > size_px / 2 else size_px - spot,
    )
    front = occluders(rng, style, size_px, centre / size_px, extent)
    passes = rng.random() < _PASSES
    way = _way(rng, frames, size_px, leaves=rng.random() < _LEAVES)
    scenery = copy.deepcopy(rng)  # ground, texture and light are drawn alike in every frame
    scenes = []
    for number, motion in enumerate(way):
        moved = [motion.apply(layer, centre) for layer in layers]
        passing = _passing(front, number, frames, size_px) if passes else []
        own = copy.deepcopy(scenery)
        image, object_map, part_map = paint(
            own, [*behind, *beside, *moved, *passing], ground(own, style, size_px), style
        )
        scenes.append(Scene(image, object_map, part_map, (main.category, other), style.name))
    return tuple(scenes)


def part_masks(scene: Scene) -> dict[str, BoolMask]:
    """Returns the (S, S) bool mask of each part of the main object that can be seen."""
    found = {}
    least = _LEAST_SHARE * scene.part_map.size
    for code, name in enumerate(PART_NAMES, start=1):
        mask = (scene.object_map == _MAIN) & (scene.part_map == code)
        if np.count_nonzero(mask) >= least:
            found[name] = mask
    return found


def _way(rng: np.random.Generator, frames: int, size_px: int, *, leaves: bool) -> list[_Motion]:
    """The motion of each frame: a walk that keeps most of its speed; the first frame stands."""
    speed = rng.normal(0, 1, 5)
    place = np.zeros(5)  # x, y, turn, growth, skew
    scale = np.array([_STEP * size_px, _STEP * size_px, np.deg2rad(_TURN), _GROWTH, _SKEW])
    out = np.zeros(2)
    direction = rng.uniform(0, 2 * np.pi)
    way = []
    for number in range(frames):
        if number:
            speed = _STEADY * speed + (1 - _STEADY**2) ** 0.5 * rng.normal(0, 1, 5)
            place = place + speed * scale
            # It stays in the picture, unless it leaves.
            place[:2] = np.clip(place[:2], -0.16 * size_px, 0.16 * size_px)
            place[3] = np.clip(place[3], -0.3, 0.3)
            if leaves and number > frames // 2:
                away = np.array([np.cos(direction), np.sin(direction)])
                out = out + away * size_px * 2.4 / frames
        turn, growth, skew = place[2:]
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        linear = rotation @ np.array([[1 + growth, skew], [0.0, 1 + growth]])
        way.append(_Motion(place[:2] + out, linear))
    return way


def _passing(front: Sequence[Layer], number: int, frames: int, size_px: int) -> list[Layer]:
    """What passes in front from left to right; it is outside in the first and last frames."""
    along = (2.4 * number / (frames - 1) - 1.2) * size_px
    shift = _Motion(np.array([along, 0.0]), np.eye(2))
    return [shift.apply(layer, np.zeros(2)) for layer in front]
