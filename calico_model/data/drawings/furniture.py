"""Furniture, lamps, clocks and umbrellas. Each builder draws one random instance.

Builders take the names of the optional parts to draw and return pieces in painting order.
"""

from __future__ import annotations

import numpy as np

from calico_model.data.drawings.shapes import (
    Shape,
    bent,
    box,
    ellipse,
    limb,
    polygon,
    rounded,
)


def chair(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a chair seen from the front, a little from the side."""
    u = rng.uniform
    w, seat, dx, dy = u(0.4, 0.55), u(0.05, 0.2), u(0.12, 0.26), u(0.12, 0.2)
    leg, thick = u(0.09, 0.14), u(0.1, 0.16)
    foot = u(0.85, 1.0)
    back_top = u(-1.0, -0.8)
    pieces = [
        Shape("leg", box(x - leg / 2, seat - dy, x + leg / 2, foot - dy))
        for x in (-w + dx + leg / 2, w + dx - leg / 2)
    ]
    left, right = -w + dx, w + dx
    lean = u(0.0, 0.12)
    back = polygon(
        (left, seat - dy), (left + lean, back_top), (right + lean, back_top), (right, seat - dy)
    )
    pieces.append(Shape("backrest", back))
    pieces.append(
        Shape(
            "seat",
            polygon(
                (-w, seat),
                (left, seat - dy),
                (right, seat - dy),
                (w, seat),
                (w, seat + thick),
                (-w, seat + thick),
            ),
        )
    )
    pieces += [
        Shape("leg", box(x - leg / 2, seat + thick, x + leg / 2, foot))
        for x in (-w + leg / 2, w - leg / 2)
    ]
    if "crossbar" in extras:
        y = u(0.6, 0.7)
        pieces.append(Shape("crossbar", box(-w + leg, y, w - leg, y + 0.09)))
    if "armrest" in extras:
        rise, bar = u(0.28, 0.38), u(0.09, 0.13)
        for x in (-w + bar / 2, w - bar / 2):
            path = [(x, seat), (x, seat - rise), (x + dx, seat - rise - dy)]
            pieces.append(Shape("armrest", bent(path, bar)))
    return pieces


def stool(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a round stool with splayed legs and no back."""
    u = rng.uniform
    w, top, leg = u(0.42, 0.6), u(-0.75, -0.4), u(0.09, 0.15)
    height, splay = u(0.12, 0.2), u(0.1, 0.3)
    feet = np.linspace(-w - splay * 0.6, w + splay * 0.6, int(rng.integers(3, 5)))
    pieces = [
        Shape("leg", limb([(0.7 * x, top), (x, 0.95 - 0.12 * (i % 2))], leg, leg * u(0.6, 1.0)))
        for i, x in enumerate(feet)
    ]
    if "crossbar" in extras:
        y = u(0.25, 0.5)
        pieces.append(Shape("crossbar", box(-w * 0.85, y, w * 0.85, y + 0.09)))
    rim = ellipse(0, top + height, w, 0.16, start=0, end=180)[0]
    upper = ellipse(0, top, w, 0.16, start=180, end=360)[0]
    pieces.append(Shape("seat", (np.concatenate([rim, upper]),)))
    return pieces


def table(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a wide table with four legs, a little from above."""
    u = rng.uniform
    w, top, dx, dy = u(0.8, 0.95), u(-0.4, -0.15), u(0.1, 0.25), u(0.2, 0.35)
    leg, thick, foot = u(0.09, 0.15), u(0.09, 0.14), u(0.55, 0.85)
    inset = u(0.02, 0.12)
    front = (-w + inset, w - inset - leg)
    pieces = [Shape("leg", box(x + dx, top, x + dx + leg, foot - dy * 0.8)) for x in front]
    if "crossbar" in extras:
        y = u(0.25, 0.4)
        pieces.append(Shape("crossbar", box(front[0], y, front[1] + leg, y + 0.09)))
    pieces += [Shape("leg", box(x, top, x + leg, foot)) for x in front]
    if "drawer" in extras:
        half = u(0.25, 0.4)
        pieces.append(Shape("drawer", box(-half, top + thick, half, top + thick + u(0.16, 0.22))))
    pieces.append(
        Shape(
            "tabletop",
            polygon(
                (-w, top),
                (-w + dx, top - dy),
                (w + dx, top - dy),
                (w, top),
                (w, top + thick),
                (-w, top + thick),
            ),
        )
    )
    return pieces


def lamp(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a table or floor lamp: base, pole, shade, and a bulb below the shade."""
    u = rng.uniform
    shade_y, narrow, wide = u(-0.35, 0.0), u(0.18, 0.4), u(0.5, 0.7)
    pole, foot = u(0.06, 0.13), u(0.3, 0.5)
    pieces = [Shape("pole", box(-pole / 2, shade_y - 0.1, pole / 2, 0.9))]
    if rng.random() < 0.5:
        pieces.append(Shape("base", ellipse(0, 0.98, foot, u(0.14, 0.24), start=180, end=360)))
    else:
        pieces.append(
            Shape(
                "base", polygon((-foot, 1.0), (-foot * 0.6, 0.82), (foot * 0.6, 0.82), (foot, 1.0))
            )
        )
    if "bulb" in extras:
        pieces.append(Shape("bulb", ellipse(0, shade_y + 0.06, 0.16, 0.17)))
    top = shade_y - u(0.55, 0.75)
    pieces.append(
        Shape(
            "lampshade", polygon((-narrow, top), (narrow, top), (wide, shade_y), (-wide, shade_y))
        )
    )
    return pieces


def clock(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws a round or square alarm clock with two hands, sometimes legs and bells."""
    u = rng.uniform
    pieces = []
    if "bell" in extras:
        pieces += [Shape("bell", ellipse(side * 0.45, -0.68, 0.28, 0.26)) for side in (-1, 1)]
    if "leg" in extras:
        pieces += [
            Shape("leg", limb([(side * 0.4, 0.5), (side * 0.6, 0.98)], 0.15, 0.1))
            for side in (-1, 1)
        ]
    rim = u(0.1, 0.18)
    if rng.random() < 0.65:
        pieces.append(Shape("frame", ellipse(0, 0, 0.75, 0.75)))
        pieces.append(Shape("dial", ellipse(0, 0, 0.75 - rim, 0.75 - rim)))
    else:
        pieces.append(Shape("frame", rounded(-0.72, -0.72, 0.72, 0.72, 0.15)))
        pieces.append(Shape("dial", rounded(-0.72 + rim, -0.72 + rim, 0.72 - rim, 0.72 - rim, 0.1)))
    for reach, width in ((u(0.45, 0.55), 0.07), (u(0.28, 0.38), 0.1)):
        turn = u(0, 2 * np.pi)
        tip = (reach * np.sin(turn), -reach * np.cos(turn))
        tail = (-0.12 * np.sin(turn), 0.12 * np.cos(turn))
        pieces.append(Shape("hand", limb([tail, tip], width, width * 0.6)))
    return pieces


def umbrella(rng: np.random.Generator, extras: frozenset[str]) -> list[Shape]:
    """Draws an open umbrella with a scalloped canopy and a hooked or straight handle."""
    del extras
    u = rng.uniform
    rim, top, pole = u(-0.05, 0.1), u(-0.9, -0.75), u(0.05, 0.08)
    pieces = [Shape("pole", box(-pole / 2, top - 0.1, pole / 2, 0.72))]
    dome = ellipse(0, rim, 0.95, rim - top, start=180, end=360)[0]
    count = int(rng.integers(4, 7))
    edges = np.linspace(0.95, -0.95, count + 1)
    scallops = [
        ellipse((a + b) / 2, rim, (a - b) / 2, u(0.08, 0.14), start=0, end=-180)[0]
        for a, b in zip(edges[:-1], edges[1:], strict=True)
    ]
    pieces.append(Shape("canopy", (np.concatenate([dome, *scallops]),)))
    if rng.random() < 0.7:
        hook = u(0.12, 0.18)
        side = rng.choice([-1, 1])
        path = [(0.0, 0.6), (0.0, 0.85), (side * hook, 1.0), (side * 2 * hook, 0.82)]
        pieces.append(Shape("handle", limb(path, 0.11)))
    else:
        pieces.append(Shape("handle", rounded(-0.08, 0.6, 0.08, 1.0, 0.06)))
    return pieces
