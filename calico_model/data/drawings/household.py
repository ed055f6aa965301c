"""Hand tools, kitchenware and instruments. Each builder draws one random instance.

Builders take the names of the optional parts to draw and return pieces in painting order.
"""

from __future__ import annotations

import numpy as np

from calico_model.data.drawings.shapes import (
    Shape,
    arc,
    box,
    curve,
    ellipse,
    limb,
    polygon,
    ring,
    rounded,
)


def guitar(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws an upright guitar with body, neck, head, sound hole, sometimes strings."""
    u = rng.uniform
    lower, waist, upper = u(0.42, 0.52), u(0.24, 0.32), u(0.32, 0.4)
    neck, joint = u(0.05, 0.08), u(-0.05, 0.05)
    pieces = [
        Shape(
            "body",
            curve(
                (0, 0.98),
                (lower * 0.75, 0.92),
                (lower, 0.65),
                (waist, 0.35),
                (upper, 0.1),
                (upper * 0.6, joint - 0.08),
                (-upper * 0.6, joint - 0.08),
                (-upper, 0.1),
                (-waist, 0.35),
                (-lower, 0.65),
                (-lower * 0.75, 0.92),
            ),
        ),
        Shape("sound hole", ellipse(0, u(0.28, 0.36), 0.15, 0.15)),
        Shape("neck", box(-neck, -0.75, neck, 0.2)),
        Shape("head", polygon((-neck, -0.72), (-0.15, -0.95), (0.15, -0.98), (neck, -0.72))),
    ]
    if "string" in extras:
        pieces.append(Shape("string", box(-neck * 0.45, -0.7, neck * 0.45, 0.62)))
    return pieces


def scissors(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws open scissors: two blades, two ring handles, sometimes the screw."""
    u = rng.uniform
    opening, width, grip = u(0.14, 0.4), u(0.13, 0.2), u(0.2, 0.28)
    pieces = [
        Shape(
            "blade",
            polygon(
                (-side * opening, -1.0),
                (side * 0.02 - side * width / 2, 0.0),
                (side * 0.1, 0.3),
                (side * 0.1 + side * width, 0.25),
                (side * width * 0.7, 0.0),
            ),
        )
        for side in (-1, 1)
    ]
    for side in (-1, 1):
        x = side * (0.18 + opening * 0.7)
        pieces.append(Shape("handle", ring(x, 0.62, grip, grip * u(1.2, 1.5), u(0.09, 0.13))))
    if "screw" in extras:
        pieces.append(Shape("screw", ellipse(0, 0.05, 0.09, 0.09)))
    return pieces


def hammer(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a hammer: a block or wedge head on a long handle, sometimes with a grip."""
    u = rng.uniform
    width, y, h = u(0.07, 0.11), u(-0.95, -0.8), u(0.26, 0.38)
    left, right = u(-0.6, -0.45), u(0.4, 0.6)
    pieces = [Shape("handle", limb([(0, y + h * 0.5), (0, 0.98)], 2 * width, 2.3 * width))]
    if rng.random() < 0.5:
        outline = box(left, y, right, y + h)
    else:
        outline = polygon(
            (left, y), (0.1, y), (right + 0.15, y + h * 0.7), (0.1, y + h), (left, y + h)
        )
    pieces.append(Shape("head", outline))
    if "grip" in extras:
        pieces.append(Shape("grip", rounded(-width * 1.5, u(0.4, 0.55), width * 1.5, 1.0, 0.06)))
    return pieces


def pan(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a frying pan from the side and above, its handle pointing right."""
    u = rng.uniform
    r, flat, depth, y = u(0.5, 0.6), u(0.18, 0.3), u(0.2, 0.32), u(-0.1, 0.1)
    x = -0.4
    handle = Shape(
        "handle",
        limb([(x + r * 0.85, y + 0.05), (0.95, y - u(-0.05, 0.25))], u(0.12, 0.18), u(0.1, 0.2)),
    )
    rim = ellipse(x, y, r, flat, start=180, end=360)[0]
    bottom = ellipse(x, y + depth, r * 0.85, flat * 0.8, start=0, end=180)[0]
    pieces = [handle, Shape("body", (np.concatenate([bottom, rim]),))]
    pieces.append(Shape("rim", ellipse(x, y, r, flat)))
    pieces.append(Shape("body", ellipse(x, y + 0.02, r * 0.84, flat * 0.74)))
    if "lid" in extras:
        dome = ellipse(x, y, r * 0.92, flat + u(0.2, 0.3), start=180, end=360)
        pieces.append(Shape("lid", rounded(x - 0.08, y - flat - 0.4, x + 0.08, y - 0.2, 0.05)))
        pieces.append(Shape("lid", dome))
    return pieces


def mug(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a mug with a handle at its right side and an open rim."""
    u = rng.uniform
    top, low, flat, y = u(0.5, 0.62), u(0.4, 0.6), u(0.1, 0.18), u(-0.75, -0.6)
    x = -0.2
    handle = arc(x + top * 0.95, 0.0, u(0.3, 0.42), u(0.32, 0.45), -95, 95, u(0.11, 0.17))
    rim = ellipse(x, y, top, flat, start=180, end=360)[0]
    bottom = ellipse(x, 0.8, low, flat, start=0, end=180)[0]
    pieces = [Shape("handle", handle), Shape("body", (np.concatenate([bottom, rim]),))]
    pieces.append(Shape("rim", ellipse(x, y, top, flat)))
    if "base" in extras:
        pieces.append(
            Shape(
                "base",
                (
                    np.concatenate(
                        [
                            ellipse(x, 0.86, low + 0.04, flat, start=0, end=180)[0],
                            ellipse(x, 0.72, low + 0.04, flat, start=180, end=0)[0],
                        ]
                    ),
                ),
            )
        )
    return pieces


def teapot(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a round teapot: spout left, ear-shaped handle right, lid with knob on top."""
    u = rng.uniform
    rx, ry, y = u(0.5, 0.62), u(0.45, 0.55), 0.2
    lid = u(0.26, 0.36)
    pieces = [
        Shape(
            "handle", arc(rx * 0.9, y - 0.05, u(0.28, 0.36), u(0.3, 0.4), -100, 100, u(0.1, 0.15))
        ),
        Shape(
            "spout",
            limb(
                [(-rx * 0.8, y + 0.25), (-rx - 0.15, y + 0.05), (-0.95, -u(0.25, 0.5))],
                u(0.3, 0.38),
                u(0.12, 0.18),
            ),
        ),
        Shape("body", ellipse(0, y, rx, ry)),
        Shape("lid", ellipse(0, y - ry * 0.82, lid * 1.15, u(0.18, 0.28), start=180, end=360)),
        Shape("knob", ellipse(0, y - ry * 0.82 - 0.27, 0.1, 0.1)),
    ]
    if "base" in extras:
        pieces.append(
            Shape(
                "base",
                polygon(
                    (-0.3, y + ry * 0.9),
                    (0.3, y + ry * 0.9),
                    (0.38, y + ry + 0.12),
                    (-0.38, y + ry + 0.12),
                ),
            )
        )
    return pieces


def kettle(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a kettle: flat-bottomed cone, arched handle over the top, short straight spout."""
    u = rng.uniform
    top, low, y = u(0.26, 0.36), u(0.6, 0.72), u(-0.3, -0.1)
    pieces = [
        Shape("handle", arc(0, y, u(0.42, 0.52), u(0.5, 0.65), 180, 360, u(0.1, 0.15))),
        Shape("spout", limb([(-low * 0.6, 0.35), (-0.95, u(-0.2, 0.05))], 0.28, 0.16)),
        Shape(
            "body",
            curve(
                (-top, y),
                (0, y - 0.04),
                (top, y),
                (low, 0.55),
                (low * 0.96, 0.85),
                (0, 0.88),
                (-low * 0.96, 0.85),
                (-low, 0.55),
            ),
        ),
        Shape("lid", ellipse(0, y + 0.02, top, u(0.16, 0.22), start=180, end=360)),
        Shape("knob", rounded(-0.07, y - 0.32, 0.07, y - 0.14, 0.04)),
    ]
    if "base" in extras:
        pieces.append(Shape("base", rounded(-low, 0.78, low, 0.98, 0.08)))
    return pieces
