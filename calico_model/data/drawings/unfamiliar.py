"""The objects kept out of training, to measure what the model makes of the unknown.

Builders take the names of the optional parts to draw and return pieces in painting order.
"""

from __future__ import annotations

import numpy as np

from calico_model.data.drawings.shapes import (
    Shape,
    box,
    curve,
    ellipse,
    limb,
    polygon,
    ring,
)


def crab(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a crab from the front: wide body, six legs, two claws."""
    del extras
    u = rng.uniform
    rx, ry = u(0.42, 0.52), u(0.28, 0.36)
    pieces = []
    for side in (-1, 1):
        for i in range(3):
            path = [
                (side * rx * 0.7, 0.2),
                (side * (rx + 0.3 - 0.08 * i), 0.12 + 0.18 * i),
                (side * (rx + 0.4 - 0.16 * i), 0.5 + 0.13 * i),
            ]
            pieces.append(Shape("leg", limb(path, 0.11, 0.06)))
        arm = [(side * rx * 0.8, 0.0), (side * (rx + 0.25), -0.2), (side * (rx + 0.2), -0.42)]
        pieces.append(Shape("claw", limb(arm, 0.13)))
        x, y = side * (rx + 0.18), -0.62
        pieces.append(Shape("claw", ellipse(x, y, 0.25, u(0.22, 0.28), start=-65, end=245)))
        pieces.append(Shape("eye", ellipse(side * 0.16, -ry + 0.08, 0.09, 0.12)))
    pieces.insert(len(pieces) // 2, Shape("body", ellipse(0, 0.15, rx, ry)))
    eyes = [piece for piece in pieces if piece.part == "eye"]
    return [piece for piece in pieces if piece.part != "eye"] + eyes


def helicopter(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a helicopter from the side, its nose to the right."""
    u = rng.uniform
    rx, ry, top = u(0.42, 0.5), u(0.32, 0.4), u(-0.65, -0.55)
    pieces = [
        Shape(
            "tail",
            polygon(
                (-0.2, 0.0),
                (-0.95, -0.12),
                (-1.0, -0.4),
                (-0.85, -0.4),
                (-0.78, -0.2),
                (-0.1, -0.15),
            ),
        ),
        Shape("rotor", limb([(-0.9, -0.32), (-1.0, 0.12)], 0.1)),
        Shape("pole", box(0.1, top, 0.2, 0.0)),
        Shape(
            "body",
            curve(
                (-0.35, 0.1),
                (-0.1, -ry + 0.1),
                (0.3, -ry + 0.1),
                (0.2 + rx, 0.15),
                (0.3, ry + 0.1),
                (-0.15, ry),
            ),
        ),
        Shape("window", curve((0.3, -ry + 0.22), (0.16 + rx, 0.1), (0.25, 0.14), (0.22, -0.1))),
        Shape("rotor", limb([(-0.75, top + u(-0.06, 0.06)), (0.15, top), (0.98, top)], 0.12)),
    ]
    if "door" in extras:
        pieces.append(Shape("door", box(-0.15, -0.08, 0.14, 0.32)))
    pieces += [Shape("leg", limb([(x, ry), (x, 0.72)], 0.07)) for x in (-0.1, 0.35)]
    pieces.append(Shape("leg", limb([(-0.4, 0.74), (0.7, 0.74)], 0.09)))
    return pieces


def wheelbarrow(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a wheelbarrow from the side, its wheel to the right."""
    del extras
    u = rng.uniform
    radius = u(0.24, 0.3)
    x = u(0.55, 0.65)
    return [
        Shape("leg", limb([(-0.2, 0.1), (-0.35, 0.8)], 0.1)),
        Shape("handle", limb([(x, 0.5), (-0.3, 0.18), (-0.98, u(-0.15, 0.05))], 0.11)),
        Shape(
            "tray",
            polygon((-0.5, u(-0.4, -0.3)), (0.9, u(-0.55, -0.4)), (0.5, 0.22), (-0.25, 0.15)),
        ),
        Shape("wheel", ring(x, 0.55, radius, radius, radius * u(0.35, 0.9))),
    ]


def lighthouse(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a lighthouse: tapering wall, door, windows, lantern room and roof."""
    u = rng.uniform
    low, high, top = u(0.32, 0.42), u(0.2, 0.26), u(-0.5, -0.4)
    pieces = [
        Shape("wall", polygon((-low, 1.0), (-high, top), (high, top), (low, 1.0))),
        Shape("lantern", box(-high * 0.75, top - 0.28, high * 0.75, top)),
        Shape("roof", polygon((-high, top - 0.26), (0, u(-1.0, -0.92)), (high, top - 0.26))),
    ]
    pieces += [
        Shape("window", box(-0.08, y, 0.08, y + 0.16))
        for y in (-0.2, 0.15)[: int(rng.integers(1, 3))]
    ]
    if "door" in extras:
        pieces.append(Shape("door", box(-0.13, 0.64, 0.13, 1.0)))
    return pieces
