"""What the gate publishes, what it refuses, and what it says about it."""

from __future__ import annotations

import math

import pytest

from backend.learning.gate import (
    Agreement,
    Comparison,
    Evidence,
    GatePolicy,
    Quality,
    judge,
    judge_refinement,
)
from backend.learning.paired import Regions

POLICY = GatePolicy()


def quality(score: float, *, groups: int = 4, regions: Regions = ()) -> Quality:
    return Quality(score, score, groups, regions=regions)


def change(before: float, after: float, *, groups: int = 4) -> Comparison:
    return Comparison(quality(before, groups=groups), quality(after, groups=groups))


def evidence(**known: object) -> Evidence:
    usual: dict[str, object] = {"held_out": None, "learned": change(0, 60), "probe": None}
    return Evidence(**usual | known)  # type: ignore[arg-type]


def labels(found_before: int, found_after: int, there: int = 40) -> Comparison:
    """Regions of one old label: so many of them found before and after."""

    def one(found: int) -> Quality:
        regions = ((*(("wing", 0.9 if k < found else 0.1) for k in range(there)),),)
        return Quality(50.0, 50.0, 5, {"wing": (found, there)}, regions)

    return Comparison(one(found_before), one(found_after))


def test_a_first_version_is_compared_with_silence() -> None:
    verdict = judge(POLICY, evidence(learned=change(0, 3)))
    assert verdict.is_accepted
    assert verdict.is_provisional
    refused = judge(POLICY, evidence(learned=change(0, 0)))
    assert not refused.is_accepted
    assert "learned nothing of the new corrections" in refused.reason


def test_the_base_set_never_vetoes() -> None:
    verdict = judge(POLICY, evidence(probe=change(57, 8)))
    assert verdict.is_accepted


def test_what_was_known_already_need_not_rise() -> None:
    assert judge(POLICY, evidence(learned=change(80, 79))).is_accepted
    assert not judge(POLICY, evidence(learned=change(80, 60))).is_accepted
    assert not judge(POLICY, evidence(learned=change(12, 12))).is_accepted


@pytest.mark.parametrize(
    ("agreement", "is_accepted"),
    [
        (Agreement(new=0.03, asked=30, earlier=0.4, earlier_alone=0.6), False),
        (Agreement(new=0.03, asked=30, earlier=0.6, earlier_alone=0.6), True),
        (Agreement(new=0.30, asked=30, earlier=0.4, earlier_alone=0.6), True),
        (Agreement(new=0.03, asked=7, earlier=0.4, earlier_alone=0.6), True),
        (Agreement(new=0.03, asked=30), False),
        (Agreement(new=0.08, asked=30), True),
    ],
)
def test_corrections_contradict_only_if_they_spoil_the_others(
    agreement: Agreement, is_accepted: bool
) -> None:
    verdict = judge(POLICY, evidence(agreement=agreement))
    assert verdict.is_accepted is is_accepted
    if not is_accepted:
        assert "contradict" in verdict.reason
        assert "look through the newest annotations" in verdict.reason


def test_corrections_kept_for_testing_decide_once_there_are_three_groups() -> None:
    worse = change(50, 30, groups=2)
    assert judge(POLICY, evidence(held_out=worse)).is_accepted
    refused = judge(POLICY, evidence(held_out=change(50, 30, groups=3)))
    assert not refused.is_accepted
    assert "worse on corrections kept for testing: 50.0 -> 30.0" in refused.reason
    assert not refused.is_provisional


def test_a_fall_within_chance_is_no_fall() -> None:
    regions = (("wing", 0.8), ("tail", 0.6)), (("wing", 0.7),), (("tail", 0.9),)
    moved = (("wing", 0.7), ("tail", 0.7)), (("wing", 0.6),), (("tail", 0.95),)
    pair = Comparison(quality(70, groups=3, regions=regions), quality(68, groups=3, regions=moved))
    assert judge(POLICY, evidence(held_out=pair)).is_accepted


def test_most_of_an_older_label_must_still_be_found() -> None:
    old = frozenset({"wing"})
    assert judge(POLICY, evidence(earlier=labels(36, 30), old_labels=old)).is_accepted
    refused = judge(POLICY, evidence(earlier=labels(36, 10), old_labels=old))
    assert not refused.is_accepted
    assert refused.reason.startswith("forgets older labels: 10 of 40 of their regions found")
    assert judge(POLICY, evidence(earlier=labels(36, 10))).is_accepted  # of no older label


@pytest.mark.parametrize("place", ["held_out", "earlier", "learned"])
def test_figures_that_are_none_are_refused(place: str) -> None:
    verdict = judge(POLICY, evidence(**{place: change(10, math.nan)}))
    assert not verdict.is_accepted
    assert "is not a number" in verdict.reason


def test_nothing_measured_is_no_version() -> None:
    verdict = judge(POLICY, evidence(learned=None))
    assert not verdict.is_accepted
    assert "nothing could be measured" in verdict.reason


def test_a_refinement_must_be_better() -> None:
    def told(**known: object) -> Evidence:
        return evidence(learned=None, **known)

    assert judge_refinement(POLICY, told(earlier=change(60, 64))).is_accepted
    kept = judge_refinement(POLICY, told(earlier=change(60, 60.2)))
    assert not kept.is_accepted
    assert kept.reason.startswith("no better than the current version, which stays")
    tested = told(earlier=change(60, 64), held_out=change(50, 40, groups=5))
    assert not judge_refinement(POLICY, tested).is_accepted


def overlaps(*groups: list[float]) -> Quality:
    """Quality of groups whose regions overlap so much with what was predicted of them."""
    flat = [value for group in groups for value in group]
    hits = sum(value >= 0.5 for value in flat)
    points = 100 * (sum(flat) + hits) / (2 * len(flat))
    regions = tuple(tuple(("lid", value) for value in group) for group in groups)
    return Quality(points, points, len(groups), {"lid": (hits, len(flat))}, regions)


def test_a_fall_of_the_same_regions_again_and_again_is_one() -> None:
    before = overlaps(*[[0.8] * 5 + [0.3] * 5] * 3)
    after = overlaps(*[[0.8] * 3 + [0.4] * 2 + [0.3] * 5] * 3)
    patient = GatePolicy(collapse=90)
    refused = judge(patient, evidence(held_out=Comparison(before, after)))
    assert refused.reason.startswith("worse on corrections kept for testing")


def test_a_collapse_is_refused_however_few_regions_there_are() -> None:
    fallen = Comparison(overlaps([0.8], [0.8], [0.8]), overlaps([0.1], [0.1], [0.1]))
    assert not judge(POLICY, evidence(held_out=fallen)).is_accepted
