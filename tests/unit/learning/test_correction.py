"""What the annotator changed, region by region, from drawn masks and captured annotations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import InvalidRleError
from backend.learning.correction import ACCEPTED, RegionChange, diff, tally
from calico_model.errors import InvalidMaskError
from calico_model.evaluation.boundary import compare_boundaries
from calico_model.masks import mask_iou
from calico_model.types import RegionKind
from tests.unit.learning.annotated import KIND, box, region

MASK = box(10, 10, 30, 40)
SMALLER = box(10, 10, 30, 30)
UNIQUE = RegionKind.UNIQUE_PART


def changes(before, after):
    return {outcome.region.id: outcome.change for outcome in diff(before, after).outcomes}


def refuse():
    raise InvalidRleError("on purpose")


def test_untouched_region_is_accepted_without_decoding():
    before, after = (region("a", MASK, load=refuse) for _ in range(2))
    (outcome,) = diff([before], [after]).outcomes
    assert outcome.change is ACCEPTED
    assert outcome.iou == 1.0


def test_equal_masks_of_different_encoding_are_accepted():
    after = region("a", MASK, encoding=b"another encoder")
    assert changes([region("a", MASK)], [after]) == {"a": ACCEPTED}


def test_reshaped_region_has_iou_and_boundary():
    (outcome,) = diff([region("a", MASK)], [region("a", SMALLER)]).outcomes
    assert outcome.change is RegionChange.RESHAPED
    assert outcome.iou == pytest.approx(2 / 3)
    assert 0 < outcome.boundary.f_score < 1
    assert 1 < outcome.boundary.distance_px < 10


def test_new_name_and_new_shape_are_both_told():
    after = region("a", SMALLER, label="lid", kind=RegionKind.UNIQUE_PART)
    expected = RegionChange.RESHAPED | RegionChange.RELABELLED | RegionChange.KIND_CHANGED
    assert changes([region("a", MASK)], [after]) == {"a": expected}


def test_new_name_alone_needs_no_decoding():
    before, after = region("a", MASK, load=refuse), region("a", MASK, label="lid", load=refuse)
    assert changes([before], [after]) == {"a": RegionChange.RELABELLED}


@pytest.mark.parametrize("label", ["Handle", "the handles", "handle "])
def test_another_spelling_is_no_new_name(label):
    assert changes([region("a", MASK)], [region("a", MASK, label=label)]) == {"a": ACCEPTED}


@pytest.mark.parametrize(("before", "after"), [(None, "lid"), ("lid", None)])
def test_a_name_that_came_or_went_is_a_new_name(before, after):
    outcome = changes([region("a", MASK, label=before)], [region("a", MASK, label=after)])
    assert outcome == {"a": RegionChange.RELABELLED}


def test_missing_id_is_removed_and_new_id_is_added():
    found = changes([region("a", MASK)], [region("b", box(0, 50, 5, 60))])
    assert found == {"a": RegionChange.REMOVED, "b": RegionChange.ADDED}


def test_region_erased_to_nothing_is_removed():
    assert changes([region("a", MASK)], [region("a", MASK & False)]) == {"a": RegionChange.REMOVED}
    assert diff([], [region("a", MASK & False)]).outcomes == ()


def test_region_drawn_again_under_another_name_replaces_the_removed_one():
    removed, added = diff([region("a", MASK)], [region("b", SMALLER, label="lid")]).outcomes
    assert (removed.change, removed.replaced_by) == (RegionChange.REMOVED, "b")
    assert added.change is RegionChange.ADDED


@pytest.mark.parametrize("kind", [KIND, None])
def test_region_drawn_again_under_its_name_is_edited(kind):
    after = region("b", SMALLER, label="Handles", kind=kind)
    (edited,) = diff([region("a", MASK)], [after]).outcomes
    assert (edited.change, edited.before.id, edited.after.id) == (RegionChange.RESHAPED, "a", "b")
    assert edited.iou == pytest.approx(2 / 3)
    assert edited.boundary == compare_boundaries(MASK, SMALLER)


def test_another_kind_of_the_region_drawn_again_is_told():
    (edited,) = diff([region("a", MASK)], [region("b", SMALLER, kind=UNIQUE)]).outcomes
    assert edited.change == RegionChange.RESHAPED | RegionChange.KIND_CHANGED


def test_less_than_half_of_the_overlap_is_another_region():
    little = box(10, 10, 30, 24)
    assert mask_iou(MASK, little) < 0.5
    found = changes([region("a", MASK)], [region("b", little)])
    assert found == {"a": RegionChange.REMOVED, "b": RegionChange.ADDED}


@pytest.mark.parametrize("order", [1, -1])
def test_one_drawing_edits_the_one_prediction_that_it_fits_best(order):
    before = [region("a", SMALLER), region("b", MASK)][::order]
    found = {one.before.id: one for one in diff(before, [region("c", MASK)]).outcomes}
    assert found["b"].change is ACCEPTED
    assert (found["a"].change, found["a"].replaced_by) == (RegionChange.REMOVED, "c")


def test_two_drawings_of_one_place_edit_two_predictions():
    before = [region("a", MASK), region("b", SMALLER)]
    after = [region("c", SMALLER), region("d", box(10, 10, 30, 28))]
    found = {one.before.id: one.after.id for one in diff(before, after).outcomes}
    assert found == {"b": "c", "a": "d"}


def test_region_on_another_image_replaces_nothing():
    removed, _ = diff([region("a", MASK)], [region("b", MASK, image=1)]).outcomes
    assert removed.replaced_by is None


def test_mask_of_another_size_is_reshaped_to_nothing_in_common():
    after = region("a", box(1, 1, 9, 9, size=(20, 30)))
    (outcome,) = diff([region("a", MASK)], [after]).outcomes
    assert (outcome.change, outcome.iou, outcome.boundary) == (RegionChange.RESHAPED, 0.0, None)


def test_mask_that_cannot_be_decoded_spoils_its_own_region_only():
    broken = region("a", SMALLER, load=refuse)
    new = region("c", MASK, load=refuse)
    found = diff([region("a", MASK), region("b", MASK)], [broken, region("b", MASK), new])
    assert [outcome.region.id for outcome in found.outcomes] == ["b"]
    assert found.unreadable == ("a", "c")


def test_tally_counts_a_region_in_every_change_it_met():
    before = [region("a", MASK), region("b", MASK), region("c", MASK)]
    after = [region("a", SMALLER, label="lid"), region("b", MASK), region("d", box(0, 50, 5, 60))]
    counted = tally(diff(before, after).outcomes)
    assert (counted.accepted, counted.reshaped, counted.relabelled) == (1, 1, 1)
    assert (counted.added, counted.removed, counted.predicted) == (1, 1, 3)
    assert counted.mean_reshaped_iou == pytest.approx(2 / 3)
    assert counted.acceptance == pytest.approx(1 / 3)
    assert (counted + counted).predicted == 6
    assert tally(()).acceptance is None


MASKS = st.integers(0, 2**12 - 1).map(
    lambda bits: np.array([bits >> n & 1 for n in range(12)], bool).reshape(3, 4)
)
DRAWN = st.dictionaries(
    st.sampled_from("abcdef"), st.tuples(MASKS, st.sampled_from(["lid", "rim", None])), max_size=6
)


@given(before=DRAWN, after=DRAWN)
def test_every_region_has_exactly_one_outcome_and_it_is_true(before, after):
    def regions(drawn):
        return [region(id_, mask, label=label) for id_, (mask, label) in drawn.items()]

    outcomes = diff(regions(before), regions(after)).outcomes
    there = {
        id_
        for id_, (mask, _) in after.items()
        if mask.any() or (id_ in before and np.array_equal(before[id_][0], mask))
    }
    predicted = [one.before.id for one in outcomes if one.before is not None]
    left = [one.after.id for one in outcomes if one.after is not None]
    assert (sorted(predicted), sorted(left)) == (sorted(before), sorted(there))
    alone = {RegionChange.REMOVED: [], RegionChange.ADDED: []}
    for outcome in outcomes:
        if outcome.before is None or outcome.after is None:
            assert outcome.iou is None
            assert (outcome.change is RegionChange.ADDED) == (outcome.before is None)
            assert (outcome.change is RegionChange.REMOVED) == (outcome.after is None)
            alone[outcome.change].append(outcome.region)
            continue
        (old, was), (new, now) = before[outcome.before.id], after[outcome.after.id]
        assert (RegionChange.RESHAPED in outcome.change) == (not np.array_equal(old, new))
        assert (RegionChange.RELABELLED in outcome.change) == (was != now)
        assert outcome.iou == pytest.approx(mask_iou(old, new))
        if outcome.before.id != outcome.after.id:
            assert outcome.before.id not in there
            assert outcome.after.id not in before
            assert was == now
            assert outcome.iou >= 0.5
    assert not any(
        removed.label == added.label and mask_iou(removed.mask, added.mask) >= 0.5
        for removed in alone[RegionChange.REMOVED]
        for added in alone[RegionChange.ADDED]
    )


def slow_boundary(mask):
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


@given(first=MASKS, second=MASKS)
def test_boundaries_agree_with_a_slow_reckoning(first, second):
    found = compare_boundaries(first, second)
    if not first.any() or not second.any():
        both_empty = not first.any() and not second.any()
        assert found.f_score == float(both_empty)
        assert found.distance_px == (0.0 if both_empty else math.inf)
        return
    ours, theirs = np.argwhere(slow_boundary(first)), np.argwhere(slow_boundary(second))
    distances = np.hypot(*(ours[:, None, :] - theirs[None, :, :]).transpose(2, 0, 1))
    to_theirs, to_ours = distances.min(axis=1), distances.min(axis=0)
    assert found.distance_px == pytest.approx((to_theirs.mean() + to_ours.mean()) / 2, rel=1e-4)
    precision, recall = (to_theirs <= 1).mean(), (to_ours <= 1).mean()  # 0.8 % of 5 px, rounded up
    expected = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    assert found.f_score == pytest.approx(expected)


def test_boundaries_of_different_sizes_are_refused():
    with pytest.raises(InvalidMaskError, match="expected the size"):
        compare_boundaries(MASK, box(0, 0, 1, 1, size=(3, 3)))
