"""A click or a box names a thing; the answer is that thing on every image."""

from __future__ import annotations

import numpy as np

from backend.serving.prompt_selection import select_prompted
from backend.types import Prompt
from calico_model.types import GroupPrediction, PartMask, RegionKind


def part(image, label, rows, columns, *, part_id=None, kind=RegionKind.COMMON_PART):
    mask = np.zeros((20, 20), np.bool_)
    mask[rows, columns] = True
    return PartMask(image, kind, label, mask, None, part_id)


PREDICTION = GroupPrediction(
    parts=(
        part(0, "cup", slice(0, 20), slice(0, 20), part_id="o", kind=RegionKind.COMMON_OBJECT),
        part(0, "handle", slice(0, 5), slice(0, 5), part_id="h"),
        part(1, "handle", slice(10, 15), slice(0, 5), part_id="h"),
        part(0, "spout", slice(15, 20), slice(0, 5), kind=RegionKind.UNIQUE_PART),
        part(1, "empty", slice(0, 0), slice(0, 0)),
    ),
    version="v",
)


def click(x, y, image=0, **more):
    return Prompt(id="p", image_index=image, box=(x, y, x, y), **more)


def chosen(*prompts):
    return [(p.image_index, p.label) for p in select_prompted(PREDICTION, prompts).parts]


def test_a_click_picks_the_smallest_region_on_every_image():
    assert chosen(click(2, 2)) == [(0, "handle"), (1, "handle")]


def test_a_click_with_a_kind_picks_among_that_kind():
    assert chosen(click(2, 2, kind=RegionKind.COMMON_OBJECT)) == [(0, "cup")]


def test_a_region_without_partners_comes_alone():
    assert chosen(click(2, 17)) == [(0, "spout")]


def test_a_click_beside_everything_picks_nothing():
    assert chosen(click(12, 12, image=1)) == []


def test_a_click_outside_the_image_is_moved_to_its_border():
    assert chosen(click(-5, 400)) == [(0, "spout")]


def test_a_box_picks_the_region_that_fits_best():
    box = Prompt(id="b", image_index=0, box=(0, 0, 6, 6))
    assert chosen(box) == [(0, "handle"), (1, "handle")]
    elsewhere = Prompt(id="b", image_index=1, box=(15, 0, 19, 4))
    assert chosen(elsewhere) == []


def test_a_negative_click_leaves_out_what_it_hits():
    assert chosen(click(2, 2), click(2, 12, image=1, is_positive=False)) == [(0, "handle")]


def test_the_picked_label_is_echoed_on_all_images():
    parts = select_prompted(PREDICTION, [click(2, 2, label="grip")]).parts
    assert {part.label for part in parts} == {"grip"}


def test_only_negative_clicks_pick_nothing():
    assert chosen(click(2, 2, is_positive=False)) == []
