"""How many more groups: the estimate, its range, and when nothing is said."""

from __future__ import annotations

import math

import pytest

from backend.learning.outlook import MeasuredPoint, estimate


def point(groups, recall, tasks=10):
    """Ten regions per task."""
    return MeasuredPoint(groups, tasks, round(recall * tasks * 10), tasks * 10)


def test_without_a_corrected_prediction_nothing_is_known():
    for points in ([], [point(0, 0.1, tasks=2)], [MeasuredPoint(5, 9, 0, 0)]):
        found = estimate(points, corrected=3)
        assert (found.more, found.recall, found.is_useful) == (None, None, False)
        assert found.words.startswith(
            "It is not yet known how many more groups it takes until predictions are useful: "
        )
        assert "corrected 3 groups that one version predicted" in found.words


def test_one_point_is_no_curve():
    found = estimate([point(0, 0.1), point(5, 0.9, tasks=2)], corrected=12)
    assert found.more is None
    assert "show only what the shipped model found, 10 of 100 regions. " in found.words
    assert found.words.endswith("Correct 3 groups that a learned version predicted.")
    later = estimate([point(5, 0.2)], 9).words
    assert "what a version that learned from 5 groups found, 20 of 100 regions. " in later
    assert later.endswith("Correct 3 groups that a later version predicted.")


@pytest.mark.parametrize("recall", [0.5, 0.9])
def test_half_of_the_regions_is_useful(recall):
    found = estimate([point(0, 0.1), point(5, recall)], corrected=9)
    assert (found.is_useful, found.more) == (True, None)
    assert f"it found {100 * recall:.0f} of 100 regions" in found.words
    assert not estimate([point(0, 0.1), point(5, 0.49)], corrected=9).is_useful


def test_the_line_over_the_logarithm_says_how_many():
    """One eighth per doubling of (1 + groups): half is reached at 2^4 - 1 groups."""
    points = [point(groups, 0.125 * math.log2(1 + groups), tasks=400) for groups in (0, 1, 3, 7)]
    found = estimate(points, corrected=8)
    assert found.more == 15 - 8
    assert found.least < found.more < found.most
    assert found.words.startswith(f"About 7 more corrected groups until predictions are useful "
                                  f"(likely {found.least} to {found.most}).")  # fmt: skip
    assert "So far it finds 38 of 100 regions; useful is 50." in found.words
    assert estimate(points, corrected=31).more == 1  # learned later than corrected


def test_the_shipped_model_counts_until_there_is_a_later_slope():
    """The first corrections bring most: with the point of the shipped model it sounds too easy."""
    first = [point(0, 0.0, 20), point(5, 0.375, 20)]
    early = estimate(first, corrected=5)
    assert early.words.startswith("A first guess: about 5 more")
    later = estimate([*first, point(20, 0.45, 2000), point(5, 0.375, 2000)], corrected=20)
    assert later.more > 20
    assert estimate([point(5, 0.375, 2000), point(20, 0.45, 2000)], 20).more == pytest.approx(
        later.more, abs=1
    )


def test_the_range_narrows_with_more_tasks():
    def width(tasks):
        found = estimate([point(0, 0.1, tasks), point(5, 0.35, tasks)], 10)
        return found.most - found.least

    assert width(400) < width(40)


def test_versions_that_learned_equally_much_are_one_point():
    apart = [point(0, 0.1), point(5, 0.2, 2), point(5, 0.4, 2)]
    together = [point(0, 0.1), point(5, 0.3, 4)]
    assert estimate(apart, 9) == estimate(together, 9)


@pytest.mark.parametrize("later", [0.1, 0.2, 0.24])
def test_what_has_not_clearly_risen_is_not_foretold(later):
    found = estimate([point(0, 0.2), point(5, later)], corrected=9)
    assert found.more is None
    assert "has not clearly risen" in found.words


def test_too_far_is_not_foretold():
    found = estimate([point(0, 0.0, 100), point(5, 0.08, 100)], corrected=9)
    assert found.more is None
    assert "more than 4 times the 5 groups" in found.words


def test_a_range_without_a_sensible_end_is_left_open():
    found = estimate([point(0, 0.05, 5), point(12, 0.35, 5)], corrected=14)
    assert found.more is not None
    assert f"(likely at least {found.least})" in found.words
