"""The gate's rule, case by case, and how it meets chance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from backend.learning.gate import Comparison, Evidence, GatePolicy, Quality, judge

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
    assert "learned nothing" in verdict(learned=pair(20, 20), probe=pair(70, 70)).reason
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


def test_clearly_bad_and_clearly_good_candidates_meet_no_chance():
    refused = accepted = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        bad = verdict(measured(rng, 50, 35, 5), probe=measured(rng, 70, 60, 12))
        good = verdict(measured(rng, 50, 62, 5), probe=measured(rng, 70, 70.5, 12))
        refused, accepted = refused + (not bad.is_accepted), accepted + good.is_accepted
    assert refused >= 19
    assert accepted >= 19
