"""Things that fly, alive or built. Each builder draws one random instance.

Builders take the names of the optional parts to draw and return pieces in painting order.
"""

from __future__ import annotations

import numpy as np

from calico_model.data.drawings.shapes import (
    Shape,
    curve,
    ellipse,
    limb,
    mirrored,
    polygon,
    rounded,
)


def bird(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a bird from the side, sometimes with legs."""
    u = rng.uniform
    rx, ry, hx, hy, hr = u(0.48, 0.58), u(0.3, 0.4), u(0.48, 0.58), u(-0.5, -0.35), u(0.22, 0.28)
    pieces = []
    if "leg" in extras:
        pieces += [
            Shape("leg", limb([(x, ry * 0.6), (x + 0.05, 0.85)], 0.09)) for x in (-0.12, 0.14)
        ]
    pieces.append(
        Shape(
            "tail",
            polygon((-0.35, -0.02), (-0.98, u(-0.3, -0.1)), (-0.95, u(0.1, 0.25)), (-0.35, 0.2)),
        )
    )
    pieces.append(
        Shape(
            "beak",
            polygon(
                (hx + hr * 0.7, hy - 0.12),
                (hx + hr + u(0.18, 0.3), hy + 0.03),
                (hx + hr * 0.7, hy + 0.14),
            ),
        )
    )
    pieces.append(
        Shape(
            "body",
            curve(
                (-rx, 0.05),
                (-0.2, -ry),
                (0.3, -ry - 0.08),
                (rx, -0.1),
                (0.35, ry * 0.85),
                (-0.1, ry),
            ),
        )
    )
    pieces.append(Shape("head", ellipse(hx, hy, hr, hr * u(0.9, 1.05))))
    lift = u(-0.75, 0.3)
    pieces.append(
        Shape(
            "wing",
            curve(
                (0.22, -0.12),
                (-0.05, -0.2 + lift * 0.4),
                (-0.62, lift),
                (-0.4, 0.12 + lift * 0.4),
                (-0.05, 0.18),
            ),
        )
    )
    pieces.append(Shape("eye", ellipse(hx + 0.06, hy - 0.04, 0.06, 0.06)))
    return pieces


def butterfly(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a butterfly from above with two pairs of wings."""
    u = rng.uniform
    x, tip, low = u(0.75, 0.95), u(-0.9, -0.65), u(0.6, 0.85)
    upper = curve((0.06, -0.15), (x * 0.6, tip), (x, tip + 0.15), (x * 0.85, -0.05), (0.08, 0.1))
    lower = curve((0.06, 0.02), (x * 0.7, 0.02), (x * 0.8, low * 0.6), (x * 0.4, low), (0.08, 0.3))
    pieces = []
    if "antenna" in extras:
        for side in (-1, 1):
            path = [(side * 0.04, -0.4), (side * 0.12, -0.7), (side * u(0.25, 0.35), -0.92)]
            pieces.append(Shape("antenna", limb(path, 0.06)))
    for wing in (lower, upper):
        pieces += [Shape("wing", wing), Shape("wing", mirrored(wing))]
    pieces.append(Shape("body", ellipse(0, 0.1, u(0.09, 0.13), u(0.42, 0.55))))
    pieces.append(Shape("head", ellipse(0, -0.42, 0.13, 0.13)))
    return pieces


def airplane(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws an airliner from the side and above, its nose to the right."""
    u = rng.uniform
    h, sweep, span = u(0.13, 0.19), u(0.25, 0.4), u(0.6, 0.8)
    far = Shape(
        "wing",
        polygon(
            (0.2, -h * 0.5),
            (-0.15, -h * 0.5),
            (-0.1 - sweep, -span * 0.75),
            (0.02 - sweep, -span * 0.75),
        ),
    )
    tail = Shape(
        "tail", polygon((-0.62, -h * 0.6), (-0.95, -h * 0.3), (-1.0, -u(0.4, 0.55)), (-0.86, -0.48))
    )
    body = Shape(
        "body",
        curve(
            (-1.0, -0.02),
            (-0.5, -h),
            (0.55, -h),
            (0.85, -h * 0.6),
            (1.0, 0.03),
            (0.8, h * 0.8),
            (-0.3, h),
        ),
    )
    near = Shape(
        "wing",
        polygon((0.25, h * 0.3), (-0.2, h * 0.3), (-0.2 - sweep, span), (-0.05 - sweep, span)),
    )
    pieces = [far, tail, body]
    if "window" in extras:
        pieces += [
            Shape("window", ellipse(x, -h * 0.25, 0.05, 0.055))
            for x in np.linspace(-0.4, 0.6, int(rng.integers(5, 8)))
        ]
    pieces.append(near)
    if "engine" in extras:
        pieces.append(Shape("engine", rounded(-0.12, span * 0.5, 0.18, span * 0.5 + 0.16, 0.08)))
    return pieces


def rocket(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws an upright rocket with fins, nose cone, sometimes windows and a flame."""
    u = rng.uniform
    w, base, shoulder = u(0.2, 0.3), 0.55, u(-0.55, -0.4)
    fin = polygon(
        (w * 0.8, u(0.0, 0.2)), (w + u(0.22, 0.35), 0.6), (w + 0.2, 0.78), (w * 0.8, base)
    )
    pieces = []
    if "flame" in extras:
        pieces.append(
            Shape(
                "flame",
                curve(
                    (-w * 0.7, base - 0.03),
                    (w * 0.7, base - 0.03),
                    (w * 0.45, 0.78),
                    (0, u(0.9, 1.05)),
                    (-w * 0.45, 0.78),
                ),
            )
        )
    pieces += [Shape("fin", fin), Shape("fin", mirrored(fin))]
    pieces.append(
        Shape(
            "body",
            polygon(
                (-w, shoulder),
                (w, shoulder),
                (w * 1.05, 0.1),
                (w * 0.8, base),
                (-w * 0.8, base),
                (-w * 1.05, 0.1),
            ),
        )
    )
    pieces.append(
        Shape(
            "nose cone",
            curve(
                (-w, shoulder),
                (-w * 0.55, shoulder - 0.3),
                (0, -1.0),
                (w * 0.55, shoulder - 0.3),
                (w, shoulder),
            ),
        )
    )
    if "window" in extras:
        for y in (-0.2, 0.15)[: int(rng.integers(1, 3))]:
            pieces.append(Shape("window", ellipse(0, y, w * 0.5, w * 0.5)))
    return pieces
