"""Procedural image groups with exact truth, drawn one by one or written as a data set.

Everything is drawn from the generator passed in; see `group_rng` for how generators are seeded.
"""

from __future__ import annotations

import numpy as np

from calico_model.data.casting import (
    Split,
    Stream,
    draw_extras,
    draw_instances,
    draw_mains,
    draw_other,
    draw_styles,
    group_rng,
)
from calico_model.data.comparison import MIN_OBJECT_SHARE
from calico_model.data.scene import Instance, Scene, compose_scene, draw_instance
from calico_model.data.styles import Style
from calico_model.errors import InvalidConfigError
from calico_model.types import MAX_GROUP_SIZE

__all__ = ["Split", "Stream", "draw_group", "draw_scene", "group_rng"]

_SHARED_SECONDARY = 0.35
_MIN_SIZE_PX = 32


def draw_scene(rng: np.random.Generator, *, size_px: int = 256, split: Split = Split.SEEN) -> Scene:
    """Draws one picture on its own.

    Args:
        rng: source of all choices.
        size_px: image side, at least 32.
        split: hold-out to draw from.

    Raises:
        InvalidConfigError: size_px too small.
    """
    return draw_group(rng, split=split, group_size=1, size_px=size_px)[0]


def draw_group(
    rng: np.random.Generator,
    *,
    split: Split = Split.SEEN,
    group_size: int = 2,
    size_px: int = 256,
) -> tuple[Scene, ...]:
    """Draws the pictures of one group.

    Half of the groups show one category (some of these one and the same object from several
    views), the others categories that share a part; some of the latter have a second, smaller
    object in every picture.

    Args:
        rng: source of all choices.
        split: hold-out to draw from.
        group_size: 1 to 8.
        size_px: image side, at least 32.

    Raises:
        InvalidConfigError: group_size or size_px out of range.
    """
    if not 1 <= group_size <= MAX_GROUP_SIZE:
        raise InvalidConfigError(f"group_size: expected 1 to {MAX_GROUP_SIZE}, got {group_size}")
    if size_px < _MIN_SIZE_PX:
        raise InvalidConfigError(f"size_px: expected at least {_MIN_SIZE_PX}, got {size_px}")
    names = draw_mains(rng, split, group_size)
    mains = draw_instances(rng, split, names)
    styles = draw_styles(rng, split, group_size)
    is_mixed = len(set(names)) > 1
    shared = draw_other(rng, names) if is_mixed and rng.random() < _SHARED_SECONDARY else None
    return tuple(
        _draw_picture(rng, main, shared, names, style, size_px)
        for main, style in zip(mains, styles, strict=True)
    )


def _draw_picture(
    rng: np.random.Generator,
    main: Instance,
    shared: str | None,
    mains: tuple[str, ...],
    style: Style,
    size_px: int,
) -> Scene:
    """Draws one picture, retrying a few times until the shared secondary object shows."""
    count = int(rng.choice(3, p=(0.45, 0.4, 0.15)))
    taken = [*mains] if shared is None else [*mains, shared]
    names = [draw_other(rng, taken) for _ in range(count)]
    if shared is not None:
        names = [shared, *names[:1]]
    others = [draw_instance(rng, name, draw_extras(rng, name)) for name in dict.fromkeys(names)]
    scene = compose_scene(rng, main, others, style=style, size_px=size_px)
    for _ in range(4):
        if shared is None or np.mean(scene.object_map == 2) >= 1.5 * MIN_OBJECT_SHARE:
            break
        scene = compose_scene(rng, main, others, style=style, size_px=size_px)
    return scene
