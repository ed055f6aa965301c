"""The picture and its maps show the same outlines, the last one painted in front."""

from __future__ import annotations

import numpy as np

from calico_model.data.drawings.shapes import box, ring
from calico_model.data.painting import Layer, paint
from calico_model.data.styles import TRAINED_STYLES

_RED, _BLUE, _GREEN = (200, 10, 10), (10, 10, 200), (10, 200, 10)


def test_maps_name_the_layer_whose_colour_shows() -> None:
    layers = [
        Layer(box(4, 4, 40, 40), _RED, 0, object_id=1, part=7),
        Layer(box(20, 20, 60, 60), _BLUE, 0, object_id=2, part=9),
        Layer(box(30, 0, 34, 63), _GREEN, 0),
    ]
    ground = np.full((64, 64, 3), 90, np.uint8)
    flat = TRAINED_STYLES[0]
    image, objects, parts = paint(np.random.default_rng(0), layers, ground, flat)
    for (x, y), colour, object_id, part in (
        ((10, 10), _RED, 1, 7),
        ((25, 25), _BLUE, 2, 9),
        ((50, 50), _BLUE, 2, 9),
        ((32, 10), _GREEN, 0, 0),
        ((32, 30), _GREEN, 0, 0),
        ((2, 62), (90, 90, 90), 0, 0),
    ):
        assert (tuple(image[y, x]), objects[y, x], parts[y, x]) == (colour, object_id, part)
    assert (objects == 1).sum() == 37 * 37 - 21 * 21 - 5 * 16
    assert ((objects == 2) == (parts == 9)).all()


def test_hole_shows_what_lies_behind() -> None:
    layers = [
        Layer(box(0, 0, 63, 63), _RED, 0, object_id=1, part=3),
        Layer(ring(32, 32, 24, 24, 8), _BLUE, 0, object_id=1, part=4),
    ]
    ground = np.zeros((64, 64, 3), np.uint8)
    image, _, parts = paint(np.random.default_rng(0), layers, ground, TRAINED_STYLES[0])
    assert (parts[32, 32], parts[32, 12], parts[2, 2]) == (3, 4, 3)
    assert tuple(image[32, 32]) == _RED
    assert tuple(image[32, 12]) == _BLUE
