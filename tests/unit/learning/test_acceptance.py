"""Taking a version back: only on enough tasks, only when annotators accept clearly less."""

from __future__ import annotations

import pytest

from backend.learning.correction import RegionTally
from backend.learning.rows import Standing, TaskRow
from backend.learning.schedule import (
    AcceptancePolicy,
    LiveAcceptance,
    live_acceptance,
    reason_to_roll_back,
)

POLICY = AcceptancePolicy(window=5, least_tasks=3, margin=0.15)


def live(tasks, accepted, predicted):
    return LiveAcceptance(tasks, RegionTally(accepted=accepted, predicted=predicted))


@pytest.mark.parametrize(
    ("current", "parent", "falls"),
    [
        (live(5, 10, 50), live(5, 40, 50), True),
        (live(5, 34, 50), live(5, 40, 50), False),
        (live(5, 45, 50), live(5, 40, 50), False),
        (live(2, 0, 20), live(5, 40, 50), False),
        (live(5, 0, 50), live(2, 20, 20), False),
    ],
)
def test_only_a_clear_fall_over_enough_tasks_counts(current, parent, falls):
    assert (reason_to_roll_back(POLICY, current, parent) is not None) is falls


def row(seq, version, accepted, predicted=10, standing=Standing.CORRECTED):
    tally = RegionTally(accepted=accepted, predicted=predicted)
    return TaskRow(seq, "s", seq, standing, version=version, tally=tally)


def test_the_newest_tasks_of_a_version_count():
    rows = [row(n, "a", n) for n in range(1, 9)]
    rows += [row(20, "b", 9), row(21, "a", 0, 0), row(22, "a", 0, standing=Standing.SKIPPED)]
    found = live_acceptance(reversed(rows), frozenset({"a"}), window=3)
    assert (found.tasks, found.tally.accepted, found.tally.predicted) == (3, 6 + 7 + 8, 30)


def test_the_sentence_names_both_shares():
    assert reason_to_roll_back(POLICY, live(5, 10, 50), live(4, 40, 50)) == (
        "annotators accept 20% of its regions over 5 tasks, 80% of its parent's over 4"
    )
