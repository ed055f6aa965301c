"""Several annotators on one task: whose word counts, and how far they agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.learning.agreement import choose, measure_agreement
from tests.unit.learning.annotated import annotation, box, region

MASK, HALF = box(10, 10, 30, 40), box(10, 10, 30, 25)
ELSEWHERE = box(0, 50, 5, 60)


def test_the_newest_annotation_counts():
    old, new = annotation(1, second=1), annotation(2, second=2, annotator=2)
    assert choose([new, old]) is new


def test_ground_truth_counts_more_than_the_newest():
    old, new = annotation(1, second=1, truth=True), annotation(2, second=2, annotator=2)
    assert choose([old, new]) is old


def test_a_skip_leaves_the_word_to_others():
    kept, skipped = annotation(1, second=1), annotation(2, second=2, annotator=2, skipped=True)
    assert choose([kept, skipped]) is kept
    assert choose([skipped]) is None
    assert choose([]) is None
    assert measure_agreement(kept, [kept, skipped]) is None


@given(order=st.permutations([annotation(n, second=n % 3, annotator=n) for n in range(5)]))
def test_the_choice_does_not_depend_on_the_order(order):
    assert choose(order).id == 2


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        ([region("x", MASK)], 1.0),
        ([region("x", HALF)], 0.5),
        ([region("x", MASK, image=1)], 0.0),
        ([], 0.0),
        ([region("x", MASK), region("y", ELSEWHERE)], 0.5),
    ],
)
def test_agreement_pairs_regions_by_place(theirs, expected):
    ours, other = annotation(1, region("a", MASK)), annotation(2, *theirs, annotator=2)
    found = measure_agreement(ours, [ours, other])
    assert found.annotators == 2
    assert found.mean_iou == pytest.approx(expected)


def test_only_the_newest_of_each_other_annotator_is_compared():
    ours = annotation(1, region("a", MASK), second=9)
    old = annotation(2, region("a", ELSEWHERE), annotator=2, second=1)
    new = annotation(3, region("a", MASK), annotator=2, second=2)
    own = annotation(4, region("a", ELSEWHERE), second=3)
    found = measure_agreement(ours, [ours, new, old, own])
    assert (found.annotators, found.mean_iou) == (2, 1.0)
