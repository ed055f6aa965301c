"""The rendered scenes that a training command learns from."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

_DOING = "rendering scenes"


def rendered_pool(
    out: Path,
    pool: Path | None,
    *,
    scenes: int,
    seed: int,
    size_px: int,
    advance_to: Callable[[str, int, int], None],
) -> Path:
    """Returns the folder of scenes to learn from; renders it where none was named.

    Args:
        out: run folder; its own scenes go to OUT/pool.
        pool: folder that was named, or None.
        scenes: how many to render.
        seed: of the scenes.
        size_px: their side.
        advance_to: told what is done, how much of it, and of how much.
    """
    from calico_model.data.pool import fill_pool

    if pool is not None:
        return pool
    fill_pool(
        out / "pool",
        scenes=scenes,
        seed=seed,
        size_px=size_px,
        workers=os.cpu_count() or 1,
        on_progress=lambda done: advance_to(_DOING, done, scenes),
    )
    return out / "pool"
