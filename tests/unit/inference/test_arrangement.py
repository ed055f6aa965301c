"""No pixel claimed twice, parts inside their object, gaps offered: and nothing unless asked."""

from __future__ import annotations

import numpy as np
import pytest

from calico_model.inference.arrangement import (
    UNKNOWN_PART,
    Arrangement,
    clip_to_objects,
    settle_overlaps,
    unknown_parts,
)
from calico_model.types import GroupPrediction, PartMask, RegionKind

PART, OBJECT = RegionKind.COMMON_PART, RegionKind.COMMON_OBJECT


def region(label, y0, x0, y1, x1, *, score=0.5, kind=PART, image=0, owner=None):
    mask = np.zeros((60, 80), bool)
    mask[y0:y1, x0:x1] = True
    return PartMask(image, kind, label, mask, owner, score=score)


def area(part):
    return int(part.mask.sum())


def overlap(parts):
    return max((np.sum([p.mask for p in parts], axis=0)).max(), 0)


def test_nothing_on_changes_nothing():
    parts = (region("a", 0, 0, 20, 20), region("b", 10, 10, 30, 30))
    prediction = GroupPrediction(parts, "v")
    assert Arrangement().apply(prediction) is prediction


def test_shared_pixels_go_to_the_higher_score():
    weak, strong = region("a", 0, 0, 20, 20, score=0.4), region("b", 0, 10, 20, 40, score=0.6)
    left, right = settle_overlaps((weak, strong))
    assert (area(left), area(right)) == (200, 600)
    assert right is strong


def test_equal_scores_go_to_the_earlier_one():
    first, second = region("a", 0, 0, 20, 20), region("b", 0, 10, 20, 40)
    assert [area(part) for part in settle_overlaps((first, second))] == [400, 400]


@pytest.mark.parametrize("seed", range(5))
def test_no_pixel_is_claimed_twice_by_rivals(seed):
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(6):
        y, x = rng.integers(0, 30), rng.integers(0, 40)
        parts.append(region(f"p{number}", y, x, y + 25, x + 25, score=rng.random()))
    before = np.any([part.mask for part in parts], axis=0)
    settled = settle_overlaps(parts)
    assert overlap(settled) == 1
    # What was claimed by somebody still is.
    assert (np.any([part.mask for part in settled], axis=0) == before).all()


def test_a_part_of_a_part_stays_in_it():
    wheel, hubcap = region("wheel", 0, 0, 40, 40), region("hubcap", 10, 10, 20, 20, score=0.9)
    assert settle_overlaps((wheel, hubcap)) == (wheel, hubcap)


def test_objects_and_other_images_are_no_rivals():
    parts = (
        region("cup", 0, 0, 40, 40, kind=OBJECT, score=0.9),
        region("lid", 0, 0, 10, 50, score=0.1),
        region("lid", 0, 0, 10, 60, score=0.8, image=1),
    )
    assert settle_overlaps(parts) == parts


def test_a_part_is_cut_at_its_object():
    cup = region("cup", 0, 0, 40, 40, kind=OBJECT)
    lid = region("lid", 0, 30, 10, 45, owner="cup")
    outside = region("spoon", 0, 35, 10, 60, owner="cup")
    kept, clipped, left = clip_to_objects((cup, lid, outside))
    assert kept is cup
    assert area(clipped) == 100
    assert left is outside  # mostly outside: who is wrong cannot be told


def test_with_several_objects_the_named_one_counts():
    cup, pot = region("cup", 0, 0, 40, 40, kind=OBJECT), region("pot", 0, 40, 40, 80, kind=OBJECT)
    lid = region("lid", 0, 30, 10, 50)
    assert clip_to_objects((cup, pot, lid))[2] is lid
    named = region("lid", 0, 35, 10, 55, owner="pot")
    assert area(clip_to_objects((cup, pot, named))[2]) == 150


def test_what_no_part_covers_is_offered():
    cup = region("cup", 0, 0, 40, 40, kind=OBJECT)
    body = region("body", 0, 0, 40, 28)
    (gap,) = unknown_parts((cup, body))
    assert (gap.label, gap.object_label, area(gap)) == (UNKNOWN_PART, "cup", 480)
    assert gap.score < 0.1
    arranged = Arrangement(gaps=True).apply(GroupPrediction((cup, body), "v"))
    assert len(arranged.parts) == 3


def test_seams_crumbs_and_objects_without_parts_are_no_gaps():
    cup = region("cup", 0, 0, 40, 40, kind=OBJECT)
    halves = (region("left", 0, 0, 40, 19), region("right", 0, 21, 40, 40))
    assert unknown_parts((cup, *halves)) == ()
    most = region("body", 0, 0, 38, 40)
    assert unknown_parts((cup, most)) == ()
    assert unknown_parts((cup,)) == ()


def test_two_gaps_are_two_regions():
    cup = region("cup", 0, 0, 40, 40, kind=OBJECT)
    belt = region("belt", 15, 0, 25, 40)
    assert [area(gap) for gap in unknown_parts((cup, belt))] == [600, 600]
