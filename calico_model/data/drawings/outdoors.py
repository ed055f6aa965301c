"""Houses and trees. Each builder draws one random instance.

Builders take the names of the optional parts to draw and return pieces in painting order.
"""

from __future__ import annotations

import numpy as np

from calico_model.data.drawings.shapes import (
    Shape,
    blob,
    box,
    ellipse,
    limb,
    polygon,
)


def house(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a house front: wall, roof, door, one or two windows, sometimes a chimney."""
    u = rng.uniform
    w, eaves, ridge, over = u(0.6, 0.8), u(-0.2, 0.0), u(-0.9, -0.7), u(0.08, 0.18)
    pieces = []
    if "chimney" in extras:
        x = u(0.25, 0.4)
        pieces.append(Shape("chimney", box(x, ridge - 0.05, x + u(0.16, 0.22), eaves - 0.1)))
    pieces.append(Shape("wall", box(-w, eaves - 0.02, w, 0.9)))
    flat = u(0.0, 0.5)
    pieces.append(
        Shape("roof", polygon((-w - over, eaves), (-flat, ridge), (flat, ridge), (w + over, eaves)))
    )
    door_x = u(-0.15, 0.15) - (0.3 if rng.random() < 0.5 else 0.0)
    half = u(0.11, 0.16)
    pieces.append(Shape("door", box(door_x - half, u(0.25, 0.4), door_x + half, 0.9)))
    spots = [x for x in (-0.45, 0.4) if abs(x - door_x) > half + 0.2]
    size = u(0.12, 0.16)
    pieces += [Shape("window", box(x - size, 0.2, x + size, 0.2 + 2 * size)) for x in spots]
    return pieces


def tree(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a leafy or coniferous tree, sometimes with branches or fruit."""
    u = rng.uniform
    width = u(0.16, 0.26)
    pieces = [
        Shape(
            "trunk", polygon((-width * 0.7, -0.1), (width * 0.7, -0.1), (width, 1.0), (-width, 1.0))
        )
    ]
    if "branch" in extras:
        side = rng.choice([-1, 1])
        pieces.append(
            Shape("branch", limb([(0, 0.6), (side * u(0.4, 0.6), u(0.28, 0.42))], 0.11, 0.07))
        )
    if rng.random() < 0.6:
        cx, cy, rx, ry = 0.0, -0.4, u(0.6, 0.8), u(0.48, 0.58)
        pieces.append(Shape("crown", blob(rng, cx, cy, rx, ry)))
    else:
        cx, cy, rx, ry = 0.0, -0.15, 0.45, 0.4
        for y, w in ((0.3, u(0.6, 0.75)), (-0.1, u(0.45, 0.58)), (-0.5, u(0.3, 0.4))):
            pieces.append(Shape("crown", polygon((-w, y), (0, y - 0.55), (w, y))))
    if "fruit" in extras:
        for _ in range(int(rng.integers(3, 6))):
            turn, reach = u(0, 2 * np.pi), np.sqrt(u(0, 0.5))
            x, y = cx + rx * reach * np.cos(turn), cy + ry * reach * np.sin(turn)
            pieces.append(Shape("fruit", ellipse(x, y, 0.085, 0.085)))
    return pieces
