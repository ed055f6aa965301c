"""Common and unique, worked out by hand on scenes of 100 x 100 pixels."""

from __future__ import annotations

import numpy as np

from calico_model.data.catalogue import PART_NAMES
from calico_model.data.comparison import compare
from calico_model.data.scene import Scene


def _scene(main: str, parts: dict[str, int], others: dict[str, int] | None = None) -> Scene:
    """A picture whose named areas are given in pixels (10,000 in all)."""
    objects = np.zeros(10_000, np.uint8)
    part_map = np.zeros(10_000, np.uint8)
    at = 0
    for name, area in parts.items():
        objects[at : at + area] = 1
        part_map[at : at + area] = PART_NAMES.index(name) + 1
        at += area
    for number, area in enumerate((others or {}).values(), start=2):
        objects[at : at + area] = number
        part_map[at : at + area] = PART_NAMES.index("wheel") + 1
        at += area
    image = np.zeros((100, 100, 3), np.uint8)
    shape = (100, 100)
    names = (main, *(others or {}))
    return Scene(image, objects.reshape(shape), part_map.reshape(shape), names, "flat")


def test_parts_on_all_are_common_and_on_one_are_unique() -> None:
    found = compare(
        [
            _scene("chair", {"leg": 500, "seat": 500, "backrest": 300}),
            _scene("stool", {"leg": 200, "seat": 900, "crossbar": 50}),
            _scene("chair", {"leg": 400, "backrest": 100}),
        ]
    )
    assert found.common_parts == ("leg",)
    assert found.unique_parts == ((), ("crossbar",), ())
    assert found.mains == ("chair", "stool", "chair")
    assert found.common_objects == ()


def test_secondary_object_is_common_when_in_every_image() -> None:
    found = compare(
        [
            _scene("chair", {"leg": 500}, {"car": 60, "bus": 300}),
            _scene("table", {"leg": 500}, {"bus": 50}),
        ]
    )
    assert found.common_objects == ("bus",)
    assert found.common_parts == ("leg",)


def test_areas_of_one_category_count_together_and_the_threshold_is_inclusive() -> None:
    whole = _scene("mug", {"body": 50})
    assert compare([whole]).common_objects == ("mug",)
    assert compare([_scene("mug", {"body": 49})]).common_objects == ()
    twice = _scene("mug", {"body": 30}, {"bus": 30})
    twice = Scene(twice.image, twice.object_map, twice.part_map, ("mug", "mug"), "flat")
    assert compare([twice, whole]).common_objects == ("mug",)


def test_small_parts_neither_common_nor_unique_but_hide_nothing() -> None:
    found = compare(
        [_scene("mug", {"body": 500, "handle": 20}), _scene("mug", {"body": 500, "handle": 19})]
    )
    assert found.common_parts == ("body",)
    assert found.unique_parts == (("handle",), ())


def test_parts_of_secondary_objects_do_not_count() -> None:
    found = compare(
        [_scene("chair", {"leg": 500}, {"car": 900}), _scene("car", {"wheel": 500, "body": 900})]
    )
    assert found.common_parts == ()
    assert found.unique_parts == (("leg",), ("body", "wheel"))


def test_everything_is_common_in_a_group_of_one() -> None:
    found = compare([_scene("chair", {"leg": 500, "seat": 20}, {"car": 100})])
    assert found.common_objects == ("chair", "car")
    assert found.common_parts == ("leg", "seat")
    assert found.unique_parts == ((),)
