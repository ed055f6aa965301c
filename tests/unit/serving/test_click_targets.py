"""Which region of the canvas is meant again."""

from __future__ import annotations

import numpy as np

from backend.serving.click_targets import overlapping_region
from backend.types import Region, RegionOrigin
from calico_model.types import PartMask, RegionKind

SIZE = (6, 7)


def region(name, mask, label="lid", kind=RegionKind.COMMON_PART, image=0):
    return Region(name, image, mask.shape, kind, label, RegionOrigin.MANUAL, None, mask.copy)


def part(mask, label="lid"):
    return PartMask(0, RegionKind.COMMON_PART, label, mask)


def test_the_region_most_alike_is_meant_if_half_of_it_is_shared():
    asked = np.zeros(SIZE, np.bool_)
    asked[:4] = True
    three, two, one = (asked.copy() for _ in range(3))
    three[3:], two[2:], one[1:] = False, False, False
    canvas = [region("two", two), region("three", three), region("one", one)]
    assert overlapping_region(part(asked), canvas).id == "three"
    assert overlapping_region(part(asked), [canvas[0]]).id == "two"
    assert overlapping_region(part(asked), [canvas[2]]) is None
    assert overlapping_region(part(asked), []) is None


def test_regions_of_other_names_images_and_sizes_are_not_compared():
    mask = np.ones(SIZE, np.bool_)
    canvas = [
        region("name", mask, label="rim"),
        region("image", mask, image=1),
        region("size", np.ones((9, 9), np.bool_)),
        region("kind", mask, kind=RegionKind.COMMON_OBJECT),
        region("nothing", np.zeros(SIZE, np.bool_)),
    ]
    assert overlapping_region(part(mask), canvas) is None
    assert overlapping_region(part(mask), [*canvas, region("own", mask)]).id == "own"
