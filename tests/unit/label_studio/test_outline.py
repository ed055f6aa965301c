"""Outlines -> masks: against a point-in-polygon test of our own, and as the editor turns them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import InvalidRleError
from backend.label_studio.outline import (
    Box,
    box_ring,
    ellipse_ring,
    fill,
    polygon_ring,
    vector_ring,
)

SIZE = (100, 200)
PLAIN = np.zeros(SIZE, bool)
PLAIN[10:40, 20:60] = True


def winding(ring, x, y):
    """How often a closed line goes round a place, from the angles it is seen at."""
    angles = np.arctan2(ring[:, 1] - y, ring[:, 0] - x)
    turns = np.diff(np.append(angles, angles[0]))
    return round(float(((turns + math.pi) % (2 * math.pi) - math.pi).sum()) / (2 * math.pi))


def polygon(*points):
    return polygon_ring(json.dumps(points).encode(), SIZE)


def vector(*vertices):
    return vector_ring(json.dumps(vertices).encode(), SIZE)


@pytest.mark.parametrize(
    "box",
    [
        Box(10, 10, 20, 30),
        Box(30, 10, 15, 40, 90),  # from its upper right corner: 30 px wide, 40 px high
        Box(30, 40, 20, 30, 180),
        Box(10, 40, 15, 40, 270),
        Box(10, 40, 15, 40, -90),
        Box(30, 40, -20, -30),
    ],
)
def test_a_rectangle_is_the_same_from_each_of_its_corners(box):
    assert np.array_equal(fill(box_ring(box, SIZE), SIZE), PLAIN)


def test_a_rectangle_turns_in_pixels_about_its_own_corner():
    mask = fill(box_ring(Box(50, 20, 10, 40, 45), SIZE), SIZE)  # 20 x 40 px, from (100, 20)
    assert mask.sum() == pytest.approx(800, rel=0.03)
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max()) == (20, 61)  # 20 + (20 + 40) / sqrt(2) = 62.4
    assert (columns.min(), columns.max()) == (72, 113)  # 100 - 40 / sqrt(2), 100 + 20 / sqrt(2)


def test_an_ellipse_has_its_area_and_turns_about_its_centre():
    flat = fill(ellipse_ring((50, 50), (20, 10), 0, SIZE), SIZE)
    assert flat.sum() == pytest.approx(math.pi * 40 * 10, rel=0.01)
    upright = fill(ellipse_ring((50, 50), (20, 10), 90, SIZE), SIZE)
    rows, columns = np.nonzero(upright)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 89, 90, 109)
    turned = fill(ellipse_ring((50, 50), (20, 10), 180, SIZE), SIZE)
    assert np.mean(turned != flat) < 0.001


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-20, 120)] * 2), min_size=3, max_size=12))
def test_a_pixel_is_inside_where_the_line_goes_round_its_centre(points):
    ring = polygon(*points)
    try:
        mask = fill(ring, SIZE)
    except InvalidRleError:
        mask = np.zeros(SIZE, bool)
    for row in range(2, 100, 13):
        for column in range(3, 200, 17):
            x, y = column + 0.5, row + 0.5
            if away(ring, x, y) > 1e-6:
                assert mask[row, column] == (winding(ring, x, y) != 0)


def away(ring, x, y):
    """Distance from a place to a closed line."""
    start, along = ring, np.roll(ring, -1, axis=0) - ring
    length = np.maximum((along**2).sum(axis=1), 1e-12)
    share = np.clip((([x, y] - start) * along).sum(axis=1) / length, 0, 1)
    return float(np.hypot(*(start + share[:, None] * along - [x, y]).T).min())


def test_a_hole_is_cut_out_by_a_line_that_comes_back():
    outer, hole = [(10, 10), (60, 10), (60, 60), (10, 60)], [(20, 20), (20, 40), (40, 40), (40, 20)]
    mask = fill(polygon(*outer, outer[0], *hole, hole[0]), SIZE)
    expected = np.zeros(SIZE, bool)
    expected[10:60, 20:120] = True
    expected[20:40, 40:80] = False
    assert np.array_equal(mask, expected)


def test_what_lies_outside_the_image_is_cut_off():
    assert fill(box_ring(Box(-50, -50, 200, 200), SIZE), SIZE).all()
    assert fill(box_ring(Box(90, 90, 50, 50, 0), SIZE), SIZE)[90:, 180:].all()


def test_vertices_follow_the_ones_they_name():
    corners = [(10, 10), (30, 10), (30, 40), (10, 40)]
    named = [
        {"id": f"v{n}", "x": x, "y": y, "prevPointId": f"v{(n - 1) % 4}"}
        for n, (x, y) in enumerate(corners)
    ]
    for order in ((0, 1, 2, 3), (2, 0, 3, 1)):
        assert np.array_equal(fill(vector(*(named[n] for n in order)), SIZE), PLAIN)
    assert np.array_equal(fill(vector(*corners), SIZE), PLAIN)


def test_curves_bulge():
    k = 0.5523  # four of these curves are nearly a circle
    places = [(1, 0), (0, 1), (-1, 0), (0, -1)]
    vertices = []
    for x, y in places:
        ahead, behind = (x - k * y, y + k * x), (x + k * y, y - k * x)
        one = {"x": 50 + 10 * x, "y": 50 + 20 * y, "isBezier": True}
        for name, (cx, cy) in (("controlPoint1", behind), ("controlPoint2", ahead)):
            one[name] = {"x": 50 + 10 * cx, "y": 50 + 20 * cy}
        vertices.append(one)
    circle = fill(vector(*vertices), SIZE)
    assert circle.sum() == pytest.approx(math.pi * 20 * 20, rel=0.02)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[0, 0], [1, 1]], "3 to"),
        ([[0, 0], [1, 1], [1]], "list of"),
        ([[0, 0], [1, 1], [1, "x"]], "list of"),
        ({"x": 1}, "list of"),
        ([[0, 0], [1, 1], [1e300, 0]], "percent"),
    ],
)
def test_points_that_outline_nothing_are_refused(points, message):
    with pytest.raises(InvalidRleError, match=message):
        polygon_ring(json.dumps(points).encode(), SIZE)
    with pytest.raises(InvalidRleError):
        vector_ring(json.dumps(points).encode(), SIZE)


def test_a_vector_with_branches_is_no_outline():
    start = {"id": "a", "x": 0, "y": 0}
    ends = [{"id": n, "x": 9, "y": i, "prevPointId": "a"} for i, n in enumerate("bc")]
    with pytest.raises(InvalidRleError, match="branches"):
        vector(start, *ends)


@pytest.mark.parametrize("box", [Box(10, 10, 0, 10), Box(150, 10, 10, 10), Box(10, 10, 0.01, 0.01)])
def test_an_outline_without_a_pixel_is_no_mask(box):
    with pytest.raises(InvalidRleError, match="pixels"):
        fill(box_ring(box, SIZE), SIZE)


def test_the_work_of_one_outline_is_bounded():
    zigzag = [[(n * 7) % 100, 100 * (n % 2)] for n in range(90_000)]
    with pytest.raises(InvalidRleError, match="rows"):
        fill(polygon_ring(json.dumps(zigzag).encode(), (5000, 100)), (5000, 100))
    with pytest.raises(InvalidRleError, match="at most"):
        fill(box_ring(Box(0, 0, 100, 100), (10_000, 10_000)), (10_000, 10_000))
