"""Outlines that annotators draw (polygon, rectangle, ellipse, vector) -> masks.

Coordinates are percent of the image. Rotations are clockwise, in pixel space: about the corner of a
rectangle, about the centre of an ellipse, as in the editor. A pixel is inside if its centre is
inside, by the nonzero winding rule that browsers use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from backend.decoding import read_json
from backend.errors import InvalidRleError
from backend.label_studio.brush import MAX_PIXELS
from calico_model.types import BoolMask

Ring = NDArray[np.float64]
"""(P, 2) x and y of the corners of one closed line."""

_ELLIPSE_CORNERS = 256
_CURVE_STEPS = 24
_FARTHEST = 1e6  # percent; coordinates farther out are refused
_MOST_POINTS = 100_000
_MOST_CROSSINGS = 20_000_000  # of outline and pixel rows; bounds time and memory of one mask
_LEAST_CORNERS = 3
_BAND_PIXELS = 1 << 22  # filled at once; a whole image of 40 megapixels would take 320 MB


class _WirePoint(msgspec.Struct, gc=False):
    x: float
    y: float


class _WireVertex(_WirePoint, gc=False):
    id: str | int | None = None
    prevPointId: str | int | None = None
    isBezier: bool | None = None
    controlPoint1: _WirePoint | None = None
    controlPoint2: _WirePoint | None = None


@dataclass(frozen=True)
class Box:
    """A rectangle: corner, sides (percent of the image) and clockwise rotation in degrees."""

    x: float
    y: float
    width: float
    height: float
    rotation: float = 0.0


def box_ring(box: Box, size_hw: tuple[int, int]) -> Ring:
    """Returns the (4, 2) corners in pixels; the box is rotated about its corner (x, y)."""
    across, down = size_hw[1] / 100, size_hw[0] / 100
    width, height = box.width * across, box.height * down
    corners = np.array([[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]])
    corners = _turned(corners, box.rotation)
    corners += (box.x * across, box.y * down)
    return corners


def ellipse_ring(
    centre: Sequence[float],
    radii: Sequence[float],
    rotation: float,
    size_hw: tuple[int, int],
) -> Ring:
    """Returns the (256, 2) corners in pixels of an ellipse given in percent.

    Raises:
        InvalidRleError: a radius is not above 0.
    """
    if min(radii) <= 0:
        raise InvalidRleError("radiusX, radiusY: expected numbers above 0")
    scale = np.array([size_hw[1] / 100, size_hw[0] / 100])
    angles = np.linspace(0.0, 2 * math.pi, _ELLIPSE_CORNERS, endpoint=False)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * (np.array(radii) * scale)
    ring = _turned(ring, rotation)
    ring += np.array(centre) * scale
    return ring


def polygon_ring(points: bytes, size_hw: tuple[int, int]) -> Ring:
    """Returns the (P, 2) corners in pixels of a JSON list of [x, y] in percent.

    Raises:
        InvalidRleError: not a list of 3 or more pairs of numbers.
    """
    try:
        corners = read_json(points, list[tuple[float, float]])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRleError("points: expected a list of [x, y]") from error
    return _in_pixels(corners, "points", size_hw)


def vector_ring(vertices: bytes, size_hw: tuple[int, int]) -> Ring:
    """Returns the (P, 2) corners in pixels of a JSON list of vertices in percent.

    A curve becomes a line of short segments.

    Raises:
        InvalidRleError: not 3 or more vertices in one closed line; a line with branches.
    """
    try:
        decoded = read_json(vertices, list[_WireVertex | tuple[float, float]])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRleError("vertices: expected a list of {x, y}") from error
    if len(decoded) * _CURVE_STEPS > _MOST_POINTS:
        raise InvalidRleError(f"vertices: expected at most {_MOST_POINTS // _CURVE_STEPS}")
    line = _in_order([v if isinstance(v, _WireVertex) else _WireVertex(*v) for v in decoded])
    corners: list[tuple[float, float]] = []
    for start, end in zip(line, line[1:] + line[:1], strict=True):
        corners += _curve(start, end)
    return _in_pixels(corners, "vertices", size_hw)


def fill(ring: Ring, size_hw: tuple[int, int]) -> BoolMask:
    """Returns the (H, W) mask inside a closed line, clipped to the image.

    Args:
        ring: corners in pixels; the last is joined to the first.
        size_hw: (height, width) in pixels.

    Raises:
        InvalidRleError: too many pixels, too long a line, or no pixel inside.
    """
    height, width = size_hw
    if height * width > MAX_PIXELS:
        raise InvalidRleError(f"expected at most {MAX_PIXELS} pixels, got {width} x {height}")
    rows, columns, turns = _crossings(ring, height)
    first = np.clip(np.ceil(columns - 0.5), 0, width).astype(np.int64)
    mask: BoolMask = np.zeros((height, width), np.bool_)
    band = max(1, _BAND_PIXELS // (width + 1))
    for top in range(0, height, band):
        in_band = (rows >= top) & (rows < top + band)
        if in_band.any():
            # To the right of a crossing with the middle of a row, the winding number changes.
            steps = np.zeros((min(band, height - top), width + 1), np.int32)
            np.add.at(steps, (rows[in_band] - top, first[in_band]), turns[in_band])
            mask[top : top + band] = np.cumsum(steps[:, :width], axis=1, dtype=np.int32) != 0
    if not mask.any():
        raise InvalidRleError("expected an outline with pixels of the image inside")
    return mask


def _crossings(
    ring: Ring, height: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int32]]:
    """Returns the crossings of the outline with the middles of the pixel rows.

    Three (C,) arrays: row, column in pixels, and direction (1 down, -1 up).
    """
    start, end = ring, np.roll(ring, -1, axis=0)
    low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    first = np.clip(np.ceil(low - 0.5), 0, height).astype(np.int64)
    past = np.clip(np.ceil(high - 0.5), 0, height).astype(np.int64)
    counts = np.maximum(past - first, 0)
    total = int(counts.sum())
    if total > _MOST_CROSSINGS:
        raise InvalidRleError(f"expected an outline of at most {_MOST_CROSSINGS} rows of pixels")
    edge = np.repeat(np.arange(len(ring)), counts)
    rows = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    rise = end[edge, 1] - start[edge, 1]
    share = (rows + 0.5 - start[edge, 1]) / rise
    columns = start[edge, 0] + share * (end[edge, 0] - start[edge, 0])
    return rows, columns, np.sign(rise).astype(np.int32)


def _turned(points: Ring, degrees: float) -> Ring:
    angle = math.radians(degrees % 360)
    cos, sin = math.cos(angle), math.sin(angle)
    turned: Ring = points @ np.array([[cos, sin], [-sin, cos]])
    return turned


def _in_pixels(points: Sequence[tuple[float, float]], field: str, size_hw: tuple[int, int]) -> Ring:
    if not _LEAST_CORNERS <= len(points) <= _MOST_POINTS:
        raise InvalidRleError(
            f"{field}: expected {_LEAST_CORNERS} to {_MOST_POINTS} places, got {len(points)}"
        )
    ring = np.array(points, np.float64)
    if not (np.abs(ring) <= _FARTHEST).all():
        raise InvalidRleError(f"{field}: expected percent of the image")
    ring *= (size_hw[1] / 100, size_hw[0] / 100)
    return ring


def _in_order(vertices: Sequence[_WireVertex]) -> list[_WireVertex]:
    """Returns the vertices along the line.

    A vertex names its predecessor by id; without that name it follows the vertex before it.
    """
    by_id = {vertex.id: vertex for vertex in vertices if vertex.id is not None}
    if len(by_id) != len(vertices):
        return list(vertices)
    after: dict[str | int | None, _WireVertex] = {}
    for before, vertex in zip([None, *vertices], vertices, strict=False):
        previous = vertex.prevPointId if vertex.prevPointId in by_id else None
        if previous is None and before is not None and not vertex.prevPointId:
            previous = before.id
        if previous is None:
            continue
        if previous in after:
            raise InvalidRleError("vertices: expected one closed line without branches")
        after[previous] = vertex
    reached = {vertex.id for vertex in after.values()}
    line = [next((vertex for vertex in vertices if vertex.id not in reached), vertices[0])]
    while (following := after.get(line[-1].id)) is not None and following is not line[0]:
        line.append(following)
        if len(line) > len(vertices):
            break
    if len(line) != len(vertices):
        raise InvalidRleError("vertices: expected one closed line without branches")
    return line


def _curve(start: _WireVertex, end: _WireVertex) -> list[tuple[float, float]]:
    """Returns the points from one vertex up to the next, without the next."""
    leaving = start.controlPoint2 if start.isBezier else None
    coming = end.controlPoint1 if end.isBezier else None
    if leaving is None and coming is None:
        return [(start.x, start.y)]
    # As in the editor: a missing control point lies at 30 % of the way.
    a = leaving or _WirePoint(start.x + 0.3 * (end.x - start.x), start.y + 0.3 * (end.y - start.y))
    b = coming or _WirePoint(end.x - 0.3 * (end.x - start.x), end.y - 0.3 * (end.y - start.y))
    points = []
    for step in range(_CURVE_STEPS):
        t = step / _CURVE_STEPS
        weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
        corners: tuple[_WirePoint, ...] = (start, a, b, end)
        points.append(
            (
                sum(weight * point.x for weight, point in zip(weights, corners, strict=True)),
                sum(weight * point.y for weight, point in zip(weights, corners, strict=True)),
            )
        )
    return points


def coordinates(*numbers: float | None) -> tuple[float, ...] | None:
    """Returns the numbers; None if a number is missing or too far outside an image."""
    usable = tuple(n for n in numbers if n is not None and abs(n) <= _FARTHEST)
    return usable if len(usable) == len(numbers) else None
