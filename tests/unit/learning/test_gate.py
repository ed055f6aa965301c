"""The gate's rules, each with its boundary, and how they meet chance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from backend.learning.gate import (
    CorrectionAgreement,
    GateEvidence,
    GatePolicy,
    Quality,
    QualityComparison,
    judge,
    judge_refinement,
)

POLICY = GatePolicy()


def quality(score, labels=None, groups=4):
    return Quality(score, score, groups, labels or {})


def pair(before, after, groups=4):
    return QualityComparison(quality(before, groups=groups), quality(after, groups=groups))


def mixed(*overlaps, label="lid"):
    """Quality of groups whose regions have these overlaps."""
    flat = [value for group in overlaps for value in group]
    hits = sum(value >= 0.5 for value in flat)
    points = 100 * (np.mean(flat) + hits / len(flat)) / 2
    regions = tuple(tuple((label, value) for value in group) for group in overlaps)
    return Quality(points, points, len(overlaps), {label: (hits, len(flat))}, regions)


def verdict(
    held_out=None, learned=None, probe=None, earlier=None, agreement=None, old=(), policy=POLICY
):
    return judge(policy, GateEvidence(held_out, learned, probe, earlier, agreement, frozenset(old)))


GOOD = pair(10, 40)


def test_a_first_version_is_compared_with_silence():
    found = verdict(learned=pair(0, 3))
    assert (found.is_accepted, found.is_provisional) == (True, True)
    assert "its own corrections 0.0 -> 3.0" in found.reason
    nothing = verdict(learned=pair(0, 0))
    assert not nothing.is_accepted
    assert "learned nothing of the new corrections: 0.0 -> 0.0" in nothing.reason
    assert "more corrected groups" in nothing.reason


def test_where_nothing_can_be_measured_nothing_is_published():
    found = verdict()
    assert not found.is_accepted
    assert "nothing could be measured" in found.reason


@pytest.mark.parametrize("probe", [pair(70, 0), pair(70, math.nan), pair(0, 70), None])
def test_the_base_never_vetoes(probe):
    assert verdict(pair(50, 55), GOOD, probe, pair(50, 50)).is_accepted
    refined = judge_refinement(POLICY, GateEvidence(None, None, probe, pair(50, 55)))
    assert refined.is_accepted


@pytest.mark.parametrize(
    ("held_out", "accepted"),
    [((50, 60), True), ((50, 50), True), ((50, 49.5), True), ((50, 49.4), False)],
)
def test_corrections_kept_for_testing_must_hold(held_out, accepted):
    found = verdict(pair(*held_out), GOOD)
    assert found.is_accepted is accepted
    assert not found.is_provisional
    assert f"kept for testing{':' * (not accepted)} 50.0 -> {held_out[1]:.1f}" in found.reason


def test_too_few_of_them_decide_nothing():
    found = verdict(pair(50, 0, groups=2), GOOD)
    assert (found.is_accepted, found.is_provisional) == (True, True)
    assert not verdict(pair(50, 0, groups=3), GOOD).is_accepted


def test_a_fall_that_may_be_chance_is_no_fall():
    before = mixed([0.8, 0.3, 0.7, 0.2], [0.6, 0.1, 0.9, 0.4], [0.5])
    after = mixed([0.8, 0.6, 0.4, 0.2], [0.4, 0.1, 0.9, 0.4], [0.5])
    assert QualityComparison(before, after).gain < -POLICY.tolerance
    assert verdict(QualityComparison(before, after), GOOD).is_accepted


def test_a_fall_of_the_same_regions_again_and_again_is_one():
    before = mixed(*[[0.8] * 5 + [0.3] * 5] * 3)
    after = mixed(*[[0.8] * 3 + [0.4] * 2 + [0.3] * 5] * 3)
    found = verdict(QualityComparison(before, after), GOOD, policy=GatePolicy(collapse=90))
    assert "worse on corrections kept for testing" in found.reason


def test_a_collapse_is_refused_however_few_regions_there_are():
    fallen = QualityComparison(mixed([0.8], [0.8], [0.8]), mixed([0.1], [0.8], [0.8]))
    assert not verdict(fallen, GOOD).is_accepted
    assert verdict(fallen, GOOD, policy=GatePolicy(collapse=90)).is_accepted


@pytest.mark.parametrize(("gone", "accepted"), [(3, True), (4, False)])
def test_older_labels_are_not_lost(gone, accepted):
    """Of ten regions three may go: the version before knew them by heart."""
    before = mixed([0.8] * 5, [0.8] * 5)
    left = [0.1] * gone + [0.8] * (10 - gone)
    pair_ = QualityComparison(before, mixed(left[:5], left[5:]))
    found = verdict(learned=GOOD, earlier=pair_, old={"lid"})
    assert found.is_accepted is accepted
    if not accepted:
        assert "forgets older labels: 6 of 10 of their regions found, 10 before" in found.reason
    assert verdict(learned=GOOD, earlier=pair_, old={"rim"}).is_accepted  # none of the old ones


def test_regions_that_change_places_are_not_lost():
    before = mixed([0.8, 0.8, 0.8, 0.3], [0.8, 0.3, 0.8, 0.3])
    swapped = mixed([0.3, 0.8, 0.8, 0.8], [0.3, 0.3, 0.8, 0.3])
    assert verdict(
        learned=GOOD, earlier=QualityComparison(before, swapped), old={"lid"}
    ).is_accepted


def test_the_more_groups_are_learned_the_less_each_may_be_known_by_heart():
    before, after = mixed([0.9] * 6, [0.9] * 6), mixed([0.6] * 6, [0.6] * 6)
    assert QualityComparison(before, after).gain < -POLICY.collapse
    assert verdict(learned=GOOD, earlier=QualityComparison(before, after), old={"lid"}).is_accepted


@pytest.mark.parametrize(
    ("learned", "accepted"),
    [
        ((0, 0.1), True),
        ((19, 19), False),
        ((20, 20), True),  # known already: accepted predictions are corrections, too
        ((90, 80), True),
        ((90, 79.9), False),
        ((25, 19.9), False),
    ],
)
def test_new_corrections_rise_or_are_known_already(learned, accepted):
    found = verdict(pair(50, 60), pair(*learned), earlier=pair(50, 60))
    assert found.is_accepted is accepted
    assert accepted or "learned nothing" in found.reason


# --- corrections that contradict each other -------------------------------------------------

AGREED = CorrectionAgreement(new=0.5, asked=20, earlier=0.5, earlier_alone=0.5)


@pytest.mark.parametrize(
    ("agreement", "accepted"),
    [
        (None, True),
        (AGREED, True),
        (CorrectionAgreement(0.11, 8, 0.44, 0.5), False),
        (CorrectionAgreement(0.12, 8, 0.44, 0.5), True),  # the new ones can be told
        (CorrectionAgreement(0.11, 8, 0.45, 0.5), True),  # the earlier ones do not suffer
        (CorrectionAgreement(0.11, 7, 0.44, 0.5), True),  # too few were asked
        (CorrectionAgreement(0.04, 20, 0.5, 0.5), True),  # of another kind, and in nobody's way
        (CorrectionAgreement(0.039, 20, 0.5, 0.5), False),  # nothing else tells them
        (CorrectionAgreement(0.039, 8), False),
        (CorrectionAgreement(0.04, 8), True),
        (CorrectionAgreement(0.039, 7), True),
        (CorrectionAgreement(0.039, 8, 0.5, None), False),
    ],
)
def test_a_contradiction_needs_nonsense_or_new_ones_hard_to_tell_and_earlier_ones_that_suffer(
    agreement, accepted
):
    found = verdict(pair(50, 60), GOOD, earlier=pair(50, 60), agreement=agreement)
    assert found.is_accepted is accepted
    assert accepted or "contradict the others" in found.reason


def test_a_contradiction_is_said_in_words_that_tell_what_to_do():
    reason = verdict(learned=GOOD, agreement=CorrectionAgreement(0.02, 12)).reason
    assert "only 2 in 100" in reason
    assert "wrong names and misplaced masks" in reason
    assert "train again" in reason


# --- refinements ----------------------------------------------------------------------------


def refined(**evidence):
    nothing = {"held_out": None, "learned": None, "probe": None}
    return judge_refinement(POLICY, GateEvidence(**nothing | evidence))


@pytest.mark.parametrize(
    ("gain", "accepted"), [(0.5, True), (0.49, False), (0, False), (-20, False)]
)
def test_a_refinement_has_to_be_better(gain, accepted):
    found = refined(earlier=pair(50, 50 + gain))
    assert found.is_accepted is accepted
    assert accepted or "no better than the current version, which stays" in found.reason


def test_corrections_kept_for_testing_say_whether_a_refinement_is_better():
    assert refined(held_out=pair(50, 52), earlier=pair(50, 50)).is_accepted
    assert "no better" in refined(held_out=pair(50, 50), earlier=pair(50, 60)).reason
    assert "worse" in refined(held_out=pair(50, 48), earlier=pair(50, 60)).reason
    few = refined(held_out=pair(50, 40, groups=2), earlier=pair(50, 60))
    assert (few.is_accepted, few.is_provisional) == (True, True)


def test_a_refinement_that_cannot_be_measured_is_not_published():
    assert not refined().is_accepted


@pytest.mark.parametrize("where", ["held_out", "learned", "earlier"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_a_number_is_refused(where, value):
    pairs = {"held_out": pair(50, 60), "learned": pair(50, 60), "earlier": pair(50, 60)}
    spoiled = pairs | {where: pair(50, value)}
    for found in (verdict(**spoiled), refined(**spoiled)):
        assert not found.is_accepted
        assert "not a number" in found.reason
