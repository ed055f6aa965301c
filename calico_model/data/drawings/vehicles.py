"""Things that drive or sail. Each builder draws one random instance.

Builders take the names of the optional parts to draw and return pieces in painting order.
"""

from __future__ import annotations

import numpy as np

from calico_model.data.drawings.shapes import (
    Shape,
    bent,
    box,
    curve,
    ellipse,
    limb,
    polygon,
    ring,
    rounded,
)


def car(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a car from the side, its front to the right."""
    u = rng.uniform
    floor, belt, roof = 0.3, u(-0.12, 0.0), u(-0.55, -0.4)
    rear, front = u(-0.75, -0.5), u(0.3, 0.5)
    radius = u(0.2, 0.27)
    pieces = [
        Shape(
            "body",
            curve(
                (-0.97, floor),
                (-0.97, belt + 0.05),
                (rear - 0.1, belt),
                (rear + 0.2, roof),
                (front - 0.25, roof),
                (front + 0.08, belt),
                (0.93, belt + 0.1),
                (0.97, floor),
            ),
        )
    ]
    pieces.append(
        Shape(
            "window",
            polygon(
                (rear + 0.08, belt), (rear + 0.25, roof + 0.09), (-0.1, roof + 0.07), (-0.1, belt)
            ),
        )
    )
    pieces.append(
        Shape(
            "window",
            polygon(
                (-0.03, belt),
                (-0.03, roof + 0.07),
                (front - 0.28, roof + 0.09),
                (front - 0.04, belt),
            ),
        )
    )
    if "door" in extras:
        pieces.append(Shape("door", rounded(-0.05, belt + 0.04, front - 0.05, floor - 0.05, 0.05)))
    if "headlight" in extras:
        pieces.append(Shape("headlight", ellipse(0.88, belt + 0.2, 0.1, 0.09)))
    pieces += [Shape("wheel", ellipse(x, floor + 0.05, radius, radius)) for x in (-0.55, 0.58)]
    return pieces


def truck(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a lorry: cargo box left, cabin right, two or three wheels."""
    u = rng.uniform
    floor, split, box_top, cabin_top = 0.38, u(0.25, 0.4), u(-0.75, -0.5), u(-0.4, -0.2)
    radius = u(0.16, 0.21)
    nose = u(0.82, 0.95)
    pieces = [
        Shape("cargo box", box(-0.97, box_top, split - 0.05, floor)),
        Shape(
            "cabin",
            polygon(
                (split, floor),
                (split, cabin_top),
                (nose - 0.18, cabin_top),
                (nose, 0.05),
                (nose + 0.03, floor),
            ),
        ),
        Shape(
            "window",
            polygon(
                (split + 0.14, cabin_top + 0.08),
                (nose - 0.22, cabin_top + 0.08),
                (nose - 0.09, 0.04),
                (split + 0.14, 0.04),
            ),
        ),
    ]
    if "door" in extras:
        pieces.append(Shape("door", box(split + 0.1, 0.07, split + 0.32, floor - 0.03)))
    if "headlight" in extras:
        pieces.append(Shape("headlight", ellipse(nose - 0.03, 0.22, 0.08, 0.08)))
    pieces += [
        Shape("wheel", ellipse(x, floor + 0.06, radius, radius))
        for x in (-0.75, -0.35, 0.62)[int(rng.integers(0, 2)) :]
    ]
    return pieces


def bus(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a bus from the side: one long round-cornered box with a row of windows."""
    u = rng.uniform
    top, floor, radius = u(-0.6, -0.45), 0.38, u(0.15, 0.2)
    pieces = [Shape("body", rounded(-0.97, top, 0.97, floor, u(0.06, 0.16)))]
    high, low = top + 0.12, top + u(0.38, 0.48)
    door_x = 0.55 if "door" in extras else 0.9
    edges = np.linspace(-0.88, door_x, int(rng.integers(4, 7)))
    gap = u(0.04, 0.07)
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        pieces.append(Shape("window", rounded(a, high, b - gap, low, 0.03)))
    if "door" in extras:
        pieces.append(Shape("door", box(0.56, high, 0.8, floor - 0.04)))
    if "headlight" in extras:
        pieces.append(Shape("headlight", ellipse(0.9, floor - 0.14, 0.09, 0.09)))
    pieces += [Shape("wheel", ellipse(x, floor + 0.04, radius, radius)) for x in (-0.6, 0.42)]
    return pieces


def bicycle(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a bicycle from the side, its front to the right."""
    u = rng.uniform
    radius, thick, bar = u(0.38, 0.44), u(0.08, 0.12), u(0.07, 0.1)
    hub_y, crank = 0.42, (u(-0.1, 0.0), 0.45)
    post, stem = (u(-0.28, -0.2), -0.25), (u(0.33, 0.42), -0.3)
    pieces = [Shape("wheel", ring(x, hub_y, radius, radius, thick)) for x in (-0.55, 0.55)]
    for a, b in (
        ((-0.55, hub_y), post),
        ((-0.55, hub_y), crank),
        (crank, post),
        (post, stem),
        (crank, stem),
        (stem, (0.55, hub_y)),
    ):
        pieces.append(Shape("frame", limb([a, b], bar)))
    pieces.append(Shape("pedal", ellipse(crank[0], crank[1], 0.12, 0.12)))
    pieces.append(
        Shape(
            "saddle",
            curve(
                (post[0] - 0.22, -0.42),
                (post[0] + 0.22, -0.38),
                (post[0] + 0.02, -0.27),
                (post[0] - 0.18, -0.27),
            ),
        )
    )
    if "basket" in extras:
        pieces.append(
            Shape("basket", polygon((0.5, -0.45), (0.98, -0.45), (0.9, -0.12), (0.58, -0.12)))
        )
    grip = [stem, (stem[0] - 0.05, -0.55), (stem[0] + u(0.05, 0.2), -0.62)]
    pieces.append(Shape("handle", bent(grip, 0.1)))
    return pieces


def boat(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a sailing boat: hull, mast, one or two sails, sometimes a flag and portholes."""
    u = rng.uniform
    deck, keel, mast = u(0.35, 0.45), u(0.8, 0.95), u(-0.1, 0.1)
    pieces = [Shape("pole", box(mast - 0.04, -0.95, mast + 0.04, deck + 0.05))]
    reach = u(0.6, 0.8)
    pieces.append(
        Shape(
            "sail",
            curve(
                (mast + 0.07, -0.85),
                (mast + reach * 0.6, -0.2),
                (mast + reach, deck - 0.12),
                (mast + 0.07, deck - 0.1),
            ),
        )
    )
    if rng.random() < 0.6:
        pieces.append(
            Shape(
                "sail",
                polygon(
                    (mast - 0.07, -0.65),
                    (mast - 0.07, deck - 0.12),
                    (mast - u(0.45, 0.65), deck - 0.12),
                ),
            )
        )
    if "flag" in extras:
        pieces.append(
            Shape("flag", polygon((mast, -1.05), (mast - u(0.3, 0.4), -0.93), (mast, -0.8)))
        )
    pieces.append(
        Shape("hull", polygon((-0.97, deck), (0.97, deck - 0.05), (0.7, keel), (-0.72, keel)))
    )
    if "window" in extras:
        pieces += [
            Shape("window", ellipse(x, (deck + keel) / 2 - 0.03, 0.09, 0.09))
            for x in (-0.45, 0.0, 0.45)
        ]
    return pieces
