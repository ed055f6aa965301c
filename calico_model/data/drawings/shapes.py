"""Outlines that drawings are put together from.

Frame: the object's own, about [-1, 1] on both axes, x to the right, y down. Knows numpy only:
no pixels, no colours, no category names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Contours = tuple[Points, ...]


class Shape(NamedTuple):
    """One painted shape of an object.

    Attributes:
        part: part name; several pieces of an object may carry the same name.
        contours: closed outlines (N, 2) in the object frame, filled by the even-odd rule.
    """

    part: str
    contours: Contours


def polygon(*points: tuple[float, float]) -> Contours:
    """Returns the closed outline through the given corners."""
    return (np.array(points, dtype=np.float64),)


def box(x0: float, y0: float, x1: float, y1: float) -> Contours:
    """Returns an upright rectangle between two opposite corners."""
    return polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def rounded(x0: float, y0: float, x1: float, y1: float, radius: float) -> Contours:
    """Returns an upright rectangle with round corners; the radius is clipped to fit."""
    radius = min(radius, (x1 - x0) / 2, (y1 - y0) / 2)
    angles = np.linspace(0, np.pi / 2, 5)
    corners = [(x1, y1, 0), (x0, y1, 1), (x0, y0, 2), (x1, y0, 3)]
    rows = []
    for x, y, quarter in corners:
        turn = angles + quarter * np.pi / 2
        inner_x = x - radius if x == x1 else x + radius
        inner_y = y - radius if y == y1 else y + radius
        rows.append(
            np.stack([inner_x + radius * np.cos(turn), inner_y + radius * np.sin(turn)], axis=1)
        )
    return (np.concatenate(rows),)


def ellipse(
    cx: float, cy: float, rx: float, ry: float, *, start: float = 0.0, end: float = 360.0
) -> Contours:
    """Returns an ellipse, or the segment of it between two angles (degrees, clockwise from +x)."""
    turn = np.deg2rad(np.linspace(start, end, 28))
    return (np.stack([cx + rx * np.cos(turn), cy + ry * np.sin(turn)], axis=1),)


def ring(cx: float, cy: float, rx: float, ry: float, thickness: float) -> Contours:
    """Returns an ellipse with a hole, `thickness` wide."""
    outer = ellipse(cx, cy, rx, ry)[0]
    return outer, ellipse(cx, cy, max(rx - thickness, 0.01), max(ry - thickness, 0.01))[0]


def limb(
    points: Sequence[tuple[float, float]], width: float, end_width: float | None = None
) -> Contours:
    """Returns a thick straight-segmented or curved stroke through the points.

    Two points make a straight bar; three or more are joined by a smooth curve.

    Args:
        points: the centre line.
        width: full width at the first point.
        end_width: full width at the last point, `width` if None.
    """
    line = np.array(points, dtype=np.float64)
    if len(line) > 2:
        line = _smooth(line, closed=False, steps=5)
    tangent = np.gradient(line, axis=0)
    tangent /= np.hypot(tangent[:, :1], tangent[:, 1:]) + 1e-9
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    last = width if end_width is None else end_width
    half = np.linspace(width, last, len(line))[:, None] / 2
    return (np.concatenate([line + normal * half, (line - normal * half)[::-1]]),)


def bent(points: Sequence[tuple[float, float]], width: float) -> Contours:
    """Returns a thick stroke with sharp corners at the points (the corners keep the width)."""
    line = np.array(points, dtype=np.float64)
    step = np.diff(line, axis=0)
    step /= np.hypot(step[:, :1], step[:, 1:])
    normals = np.stack([-step[:, 1], step[:, 0]], axis=1)
    before = np.concatenate([normals[:1], normals])
    after = np.concatenate([normals, normals[-1:]])
    miter = before + after
    miter /= np.maximum((miter * before).sum(axis=1, keepdims=True), 0.3)
    return (np.concatenate([line + miter * width / 2, (line - miter * width / 2)[::-1]]),)


def arc(
    cx: float, cy: float, rx: float, ry: float, start: float, end: float, width: float
) -> Contours:
    """Returns a thick piece of an ellipse's rim between two angles in degrees."""
    outer = ellipse(cx, cy, rx + width / 2, ry + width / 2, start=start, end=end)[0]
    inner = ellipse(cx, cy, rx - width / 2, ry - width / 2, start=end, end=start)[0]
    return (np.concatenate([outer, inner]),)


def curve(*points: tuple[float, float]) -> Contours:
    """Returns the smooth closed outline through the given points."""
    return (_smooth(np.array(points, dtype=np.float64), closed=True, steps=4),)


def blob(
    rng: np.random.Generator, cx: float, cy: float, rx: float, ry: float, roughness: float = 0.18
) -> Contours:
    """Returns an irregular rounded outline inside about the given ellipse."""
    count = int(rng.integers(7, 11))
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    reach = 1.0 + rng.uniform(-roughness, roughness, count)
    points = np.stack([cx + rx * reach * np.cos(turn), cy + ry * reach * np.sin(turn)], axis=1)
    return (_smooth(points, closed=True, steps=3),)


def mirrored(contours: Contours, axis_x: float = 0.0) -> Contours:
    """Returns the outlines reflected left to right about a vertical axis."""
    return tuple(outline * (-1.0, 1.0) + (2 * axis_x, 0.0) for outline in contours)


def _smooth(points: Points, *, closed: bool, steps: int) -> Points:
    """Returns a Catmull-Rom curve through the points, `steps` samples per segment."""
    if closed:
        padded = np.concatenate([points[-1:], points, points[:2]])
    else:
        padded = np.concatenate([points[:1], points, points[-1:]])
    p0, p1, p2, p3 = (padded[i : len(padded) - 3 + i, None] for i in range(4))
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    samples = 0.5 * (
        2 * p1
        + (p2 - p0) * t
        + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
        + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )
    flat: Points = samples.reshape(-1, 2)
    return flat if closed else np.concatenate([flat, points[-1:]])
