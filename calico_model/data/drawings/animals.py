"""Animals. Each builder draws one random instance, facing right.

Builders take the names of the optional parts to draw and return pieces in painting order.
"""

from __future__ import annotations

import numpy as np

from calico_model.data.drawings.shapes import (
    Shape,
    curve,
    ellipse,
    limb,
    polygon,
)


def fish(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a fish from the side."""
    u = rng.uniform
    h, spread = u(0.32, 0.48), u(0.3, 0.45)
    pieces = [
        Shape(
            "tail",
            polygon((-0.5, -0.06), (-0.98, -spread), (-0.82, 0), (-0.98, spread), (-0.5, 0.06)),
        ),
        Shape(
            "fin",
            curve(
                (-0.3, -h * 0.75), (-0.15, -h - u(0.2, 0.35)), (0.35, -h * 0.75), (0.0, -h * 0.55)
            ),
        ),
        Shape("fin", polygon((-0.1, h * 0.8), (-0.25, h + u(0.18, 0.28)), (0.15, h * 0.85))),
        Shape(
            "body",
            curve(
                (-0.58, 0), (-0.1, -h), (0.45, -h * 0.85), (0.95, 0.02), (0.45, h * 0.85), (-0.1, h)
            ),
        ),
    ]
    if "mouth" in extras:
        pieces.append(Shape("mouth", limb([(0.68, h * 0.34), (0.95, 0.06)], 0.1)))
    pieces.append(Shape("eye", ellipse(u(0.5, 0.6), -h * 0.25, 0.085, 0.085)))
    return pieces


def _four_legs(
    rng: np.random.Generator, xs: tuple[float, float], top: float, width: float
) -> list[Shape]:
    """Draws two pairs of legs below the given x positions, down to y = 1."""
    pieces = []
    for x in xs:
        for offset in (-0.13, 0.1):
            foot = x + offset + rng.uniform(-0.12, 0.12)
            pieces.append(Shape("leg", limb([(x + offset, top), (foot, 0.97)], width, width * 0.8)))
    return pieces


def dog(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a standing dog: drooping ear, long snout, raised tail, sometimes a collar."""
    u = rng.uniform
    hx, hy, hr = u(0.56, 0.64), u(-0.55, -0.45), u(0.22, 0.27)
    back = u(-0.12, -0.02)
    pieces = [
        Shape(
            "tail",
            limb(
                [(-0.6, back + 0.1), (-0.82, back - 0.2), (-u(0.8, 0.98), -u(0.4, 0.6))], 0.15, 0.08
            ),
        )
    ]
    pieces += _four_legs(rng, (-0.5, 0.38), 0.3, u(0.14, 0.18))
    pieces.append(
        Shape(
            "body",
            curve(
                (-0.7, 0.1),
                (-0.5, back - 0.05),
                (0.2, back),
                (0.42, hy + 0.05),
                (0.68, hy + 0.25),
                (0.58, 0.38),
                (0.1, 0.48),
                (-0.55, 0.45),
            ),
        )
    )
    if "collar" in extras:
        pieces.append(Shape("collar", limb([(0.36, hy + 0.12), (0.7, hy + 0.32)], 0.11)))
    pieces.append(Shape("head", ellipse(hx, hy, hr * 1.05, hr)))
    pieces.append(
        Shape(
            "snout",
            limb([(hx + hr * 0.6, hy + 0.07), (hx + hr + u(0.14, 0.22), hy + 0.12)], 0.24, 0.17),
        )
    )
    pieces.append(
        Shape(
            "ear",
            curve(
                (hx - 0.08, hy - hr * 0.9),
                (hx - 0.27, hy - 0.05),
                (hx - 0.22, hy + u(0.15, 0.25)),
                (hx - 0.02, hy - 0.02),
            ),
        )
    )
    pieces.append(Shape("eye", ellipse(hx + 0.12, hy - 0.07, 0.05, 0.05)))
    return pieces


def cat(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a sitting cat: round head with pointed ears, curled tail, sometimes whiskers."""
    u = rng.uniform
    hx, hy, hr = u(0.1, 0.25), u(-0.5, -0.42), u(0.32, 0.38)
    pieces = [
        Shape(
            "tail",
            limb(
                [(-0.4, 0.8), (-0.85, 0.75), (-u(0.8, 0.98), u(0.1, 0.4)), (-0.68, u(-0.15, 0.1))],
                0.16,
                0.1,
            ),
        )
    ]
    pieces.append(
        Shape(
            "body",
            curve(
                (-0.5, 0.92),
                (-0.52, 0.45),
                (-0.2, -0.1),
                (hx + 0.22, -0.2),
                (0.48, 0.4),
                (0.42, 0.92),
            ),
        )
    )
    pieces += [Shape("leg", limb([(x, 0.35), (x + 0.02, 0.95)], 0.17, 0.15)) for x in (0.12, 0.36)]
    for side in (-1, 1):
        x = hx + side * hr * 0.6
        pieces.append(
            Shape(
                "ear",
                polygon(
                    (x - 0.17, hy - hr * 0.55),
                    (x + side * 0.08, hy - hr - u(0.18, 0.28)),
                    (x + 0.17, hy - hr * 0.55),
                ),
            )
        )
    pieces.append(Shape("head", ellipse(hx, hy, hr * 1.1, hr)))
    pieces += [Shape("eye", ellipse(hx + side * 0.15, hy - 0.04, 0.06, 0.075)) for side in (-1, 1)]
    if "whisker" in extras:
        for side in (-1, 1):
            for tilt in (-0.06, 0.08):
                pieces.append(
                    Shape(
                        "whisker",
                        limb(
                            [(hx + side * 0.14, hy + 0.14), (hx + side * 0.6, hy + 0.14 + tilt)],
                            0.045,
                        ),
                    )
                )
    return pieces


def horse(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a standing horse: long neck and head, long legs, sometimes mane and saddle."""
    u = rng.uniform
    hx, hy = u(0.62, 0.7), u(-0.72, -0.62)
    pieces = [
        Shape(
            "tail", limb([(-0.62, -0.1), (-0.85, 0.1), (-u(0.78, 0.92), u(0.45, 0.65))], 0.12, 0.2)
        )
    ]
    pieces += _four_legs(rng, (-0.45, 0.32), 0.2, u(0.12, 0.15))
    pieces.append(
        Shape(
            "neck",
            polygon((0.2, -0.12), (hx - 0.18, hy - 0.02), (hx + 0.06, hy + 0.12), (0.52, 0.12)),
        )
    )
    pieces.append(
        Shape(
            "body",
            curve(
                (-0.68, 0.02),
                (-0.45, -0.2),
                (0.1, -0.16),
                (0.45, -0.16),
                (0.55, 0.08),
                (0.35, 0.32),
                (-0.2, 0.32),
                (-0.6, 0.26),
            ),
        )
    )
    pieces.append(
        Shape("ear", polygon((hx - 0.14, hy - 0.08), (hx - 0.12, hy - 0.32), (hx, hy - 0.1)))
    )
    pieces.append(
        Shape(
            "head", limb([(hx - 0.1, hy - 0.03), (hx + u(0.24, 0.3), hy + u(0.2, 0.3))], 0.26, 0.17)
        )
    )
    if "mane" in extras:
        pieces.append(
            Shape(
                "mane",
                curve(
                    (hx - 0.12, hy - 0.12),
                    (hx - 0.3, hy + 0.12),
                    (0.1, -0.2),
                    (0.22, -0.02),
                    (hx - 0.16, hy + 0.18),
                ),
            )
        )
    if "saddle" in extras:
        pieces.append(
            Shape(
                "saddle",
                curve(
                    (-0.3, -0.28), (0.1, -0.3), (0.14, -0.1), (0.0, 0.1), (-0.2, 0.1), (-0.3, -0.1)
                ),
            )
        )
    return pieces
