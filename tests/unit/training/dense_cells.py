"""Images as the dense head learns from them, whose maps show plainly what is where."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from calico_model.modeling.photo_trunk import KINDS
from calico_model.training.online.example import DenseImage

WIDTHS = KINDS["efficientnet-lite2"].widths
SIDE = 32  # L

Box = tuple[int, int, int, int]  # first and last row, first and last column, in cells


def dense_image(
    parts: Mapping[str, Box],
    objects: Mapping[str, Box] | None = None,
    *,
    looks: Mapping[str, int] | None = None,
    seed: int = 0,
    noise: float = 0.2,
    knows_parts: bool = True,
    knows_objects: bool = True,
) -> DenseImage:
    """An image with named boxes; later ones lie over earlier ones.

    Args:
        parts, objects: by name.
        looks: name -> which of four kinds of channels shows it, by the place among `parts` if None.
        seed: of the noise.
        noise: of every number of every map.
        knows_parts, knows_objects: see `DenseImage`.
    """
    objects = objects or {}
    shown = dict(looks or {name: number for number, name in enumerate(parts)})
    random = torch.Generator().manual_seed(seed)
    maps = []
    for level, width in enumerate(WIDTHS):
        side = SIDE >> level
        drawn = noise * torch.randn(width, side, side, generator=random)
        for name, (top, bottom, left, right) in {**objects, **parts}.items():
            if name in shown:
                rows, columns = (
                    slice(top >> level, bottom >> level),
                    slice(left >> level, right >> level),
                )
                drawn[shown[name] :: 4, rows, columns] += 1.0
        maps.append(drawn)
    return DenseImage(
        tuple(maps),
        _codes(parts),
        _codes(objects),
        tuple(sorted(parts)),
        tuple(sorted(objects)),
        knows_parts,
        knows_objects,
    )


def _codes(boxes: Mapping[str, Box]) -> torch.Tensor:
    codes = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    names = sorted(boxes)
    for name, (top, bottom, left, right) in boxes.items():
        codes[top:bottom, left:right] = 1 + names.index(name)
    return codes
