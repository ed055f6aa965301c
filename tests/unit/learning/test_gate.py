"""The gate's rule, case by case, and how it meets chance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from backend.learning.gate import Comparison, Evidence, GatePolicy, Quality, is_clear, judge

POLICY = GatePolicy(tolerance=0.5, margin=2.0)


def quality(score, labels=None, groups=4):
    return Quality(score, score, groups, labels or {})


def pair(before, after, old=None, new=None):
    return Comparison(quality(before, old), quality(after, new))


def verdict(held_out=None, learned=None, probe=None, old=frozenset()):
    return judge(POLICY, Evidence(held_out, learned, probe, frozenset(old)))


@pytest.mark.parametrize(
    ("held_out", "probe", "accepted", "word"),
    [
        ((50, 60), (70, 70), True, "50.0 -> 60.0"),
        ((50, 50), (70, 70), True, "50.0 -> 50.0"),
        ((50, 49.6), (70, 70), True, "49.6"),
        ((50, 49.4), (70, 70), False, "worse"),
        ((50, 60), (70, 68.1), True, "60.0"),
        ((50, 60), (70, 67.9), False, "forgets the base"),
        ((50, 50), (70, 60), False, "forgets the base"),
    ],
)
def test_held_out_quality_and_the_base_decide(held_out, probe, accepted, word):
    found = verdict(pair(*held_out), pair(10, 90), pair(*probe))
    assert found.is_accepted is accepted
    assert word in found.reason
    assert not found.is_provisional


def test_older_labels_must_not_be_lost():
    before = {"lid": (9, 10), "rim": (5, 10)}
    kept, lost = {"lid": (8, 10), "rim": (9, 10)}, {"lid": (6, 10), "rim": (10, 10)}
    assert verdict(pair(50, 55, before, kept), old={"lid"}).is_accepted
    found = verdict(pair(50, 55, before, lost), old={"lid"})
    assert not found.is_accepted
    assert "6 of 10 regions found, 9 before" in found.reason
    assert verdict(pair(50, 55, before, lost)).is_accepted


def test_without_held_out_corrections_learning_and_the_base_decide():
    good = verdict(learned=pair(20, 40), probe=pair(70, 69))
    assert (good.is_accepted, good.is_provisional) == (True, True)
    assert "learned little" in verdict(learned=pair(20, 20), probe=pair(70, 70)).reason
    assert "forgets" in verdict(learned=pair(20, 40), probe=pair(70, 60)).reason
    assert not verdict().is_accepted


@pytest.mark.parametrize("where", ["held_out", "learned", "probe"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_a_number_is_refused(where, value):
    pairs = {"held_out": pair(50, 60), "learned": pair(50, 60), "probe": pair(50, 50)}
    found = verdict(**pairs | {where: pair(50, value)})
    assert not found.is_accepted
    assert "not a number" in found.reason


def measured(rng, before_mean, after_mean, groups):
    """Two versions on the same groups: their difficulty is shared, the rest is chance."""
    hard = rng.normal(0, 15, groups)
    before, after = (
        float(np.clip(mean + hard + rng.normal(0, 3, groups), 0, 100).mean())
        for mean in (before_mean, after_mean)
    )
    return pair(before, after)


def seen(overlap, count=20, label="lid"):
    """Quality of one group whose regions all overlap so much."""
    points = 100 * (overlap + (overlap >= 0.5)) / 2
    regions = ((label, overlap),) * count
    found = {label: (count if overlap >= 0.5 else 0, count)}
    return Quality(points, points, 1, found, (regions,))


def mixed(*overlaps, label="lid"):
    """Quality of groups with these overlaps."""
    flat = [value for group in overlaps for value in group]
    hits = sum(value >= 0.5 for value in flat)
    points = 100 * (np.mean(flat) + hits / len(flat)) / 2
    regions = tuple(tuple((label, value) for value in group) for group in overlaps)
    return Quality(points, points, len(overlaps), {label: (hits, len(flat))}, regions)


def test_a_fall_that_may_be_chance_is_no_fall():
    before = mixed([0.8, 0.3, 0.7, 0.2], [0.6, 0.1, 0.9, 0.4])
    after = mixed([0.8, 0.6, 0.4, 0.2], [0.4, 0.1, 0.9, 0.4])
    learned = pair(20, 40)
    assert judge(POLICY, Evidence(Comparison(before, after), learned, None)).is_accepted
    probed = Evidence(pair(50, 60), None, Comparison(before, after))
    assert judge(POLICY, probed).is_accepted


def test_a_fall_of_the_same_regions_again_and_again_is_one():
    before = mixed(*[[0.8] * 5 + [0.3] * 5] * 3)
    after = mixed(*[[0.8] * 3 + [0.4] * 2 + [0.3] * 5] * 3)
    policy = GatePolicy(collapse=90)
    found = judge(policy, Evidence(Comparison(before, after), None, None))
    assert "worse" in found.reason
    found = judge(policy, Evidence(pair(50, 60), None, Comparison(before, after)))
    assert "forgets the base" in found.reason


def test_a_collapse_is_refused_however_few_regions_there_are():
    fallen = Comparison(seen(0.8, count=1), seen(0.1, count=1))
    assert "worse" in judge(POLICY, Evidence(fallen, None, None)).reason
    assert judge(GatePolicy(collapse=90), Evidence(fallen, pair(1, 9), None)).is_accepted


def test_older_labels_are_compared_region_by_region():
    before = mixed([0.8, 0.8, 0.8, 0.3], [0.8, 0.3, 0.8, 0.3])
    swapped = mixed([0.3, 0.8, 0.8, 0.8], [0.3, 0.3, 0.8, 0.3])
    gone = mixed([0.3, 0.3, 0.3, 0.3], [0.3, 0.3, 0.8, 0.3])
    policy = GatePolicy(collapse=90, tolerance=90)
    evidence = Evidence(Comparison(before, swapped), pair(1, 9), None, frozenset({"lid"}))
    assert judge(policy, evidence).is_accepted
    evidence = Evidence(Comparison(before, gone), pair(1, 2), None, frozenset({"lid"}))
    assert "forgets older labels: 1 of 8 regions found, 5 before" in judge(policy, evidence).reason


def test_what_helps_nowhere_is_not_published():
    nothing = judge(POLICY, Evidence(pair(50, 50), pair(30, 30), pair(70, 70)))
    assert not nothing.is_accepted
    assert "learned little" in nothing.reason
    # A little better may be chance, where it is held out and where it was learned.
    assert not judge(POLICY, Evidence(pair(50, 51), pair(30, 33), pair(70, 70))).is_accepted
    assert judge(POLICY, Evidence(pair(50, 51), pair(30, 37), pair(70, 70))).is_accepted
    assert judge(POLICY, Evidence(pair(50, 53), None, pair(70, 70))).is_accepted
    clear = [is_clear(POLICY, one) for one in (None, pair(5, 5), pair(5, 6), pair(5, 8))]
    assert clear == [False, False, False, True]


def test_a_rehearsal_of_right_corrections_does_not_carry_wrong_ones():
    rises = pair(20, 30)
    unlearnable = judge(POLICY, Evidence(rises, pair(0, 3), pair(70, 70)))
    assert not unlearnable.is_accepted
    assert "learned little: learned corrections 0.0 -> 3.0" in unlearnable.reason
    assert judge(POLICY, Evidence(rises, pair(0, 8), pair(70, 70))).is_accepted
    # What was known already cannot rise: accepted predictions are corrections, too.
    for known in (pair(90, 90), pair(28, 29), pair(18, 16)):
        assert judge(POLICY, Evidence(rises, known, pair(70, 70))).is_accepted
    assert judge(POLICY, Evidence(pair(92, 95), pair(92, 94), pair(70, 70))).is_accepted


def test_clearly_bad_and_clearly_good_candidates_meet_no_chance():
    refused = accepted = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        bad = verdict(measured(rng, 50, 35, 5), probe=measured(rng, 70, 60, 12))
        good = verdict(measured(rng, 50, 62, 5), probe=measured(rng, 70, 70.5, 12))
        refused, accepted = refused + (not bad.is_accepted), accepted + good.is_accepted
    assert refused >= 19
    assert accepted >= 19
