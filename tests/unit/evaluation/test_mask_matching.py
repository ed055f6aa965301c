"""Overlaps and pairings, against exhaustive search."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calico_model.errors import InvalidMaskError
from calico_model.evaluation import matching

MATRICES = hnp.arrays(
    np.float64,
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
    elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.6, 0.9, 1.0]),
)


def best_total(iou: np.ndarray) -> float:
    wide = iou if iou.shape[0] <= iou.shape[1] else iou.T
    choices = permutations(range(wide.shape[1]), wide.shape[0])
    return max((sum(wide[row, c] for row, c in enumerate(choice)) for choice in choices), default=0)


@given(MATRICES)
def test_hungarian_reaches_the_best_total(iou: np.ndarray) -> None:
    pairs = matching.hungarian(iou)
    assert sum(iou[pair] for pair in pairs) == pytest.approx(best_total(iou))
    assert len({p for p, _ in pairs}) == len({t for _, t in pairs}) == len(pairs)
    assert all(iou[pair] > 0 for pair in pairs)


def test_hungarian_gives_up_the_best_pair_for_a_better_total() -> None:
    iou = np.array([[0.9, 0.8], [0.8, 0.0]])
    assert matching.hungarian(iou) == ((0, 1), (1, 0))
    assert matching.greedy(iou) == ((0, 0),)


def test_hungarian_is_exact_on_many_regions() -> None:
    rng = np.random.default_rng(7)
    iou = np.diag(rng.uniform(0.6, 1.0, 40))[rng.permutation(40)] + rng.uniform(0, 0.01, (40, 40))
    expected = tuple((row, int(iou[row].argmax())) for row in range(40))
    assert matching.hungarian(iou) == expected


def test_greedy_goes_from_large_to_small_and_to_the_lower_index() -> None:
    iou = np.array([[0.3, 0.7, 0.7], [0.3, 0.0, 0.7]])
    assert matching.greedy(iou) == ((0, 1), (1, 2))


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_nothing_pairs_with_nothing(shape: tuple[int, int]) -> None:
    assert matching.hungarian(np.zeros(shape)) == ()
    assert matching.greedy(np.zeros(shape)) == ()


def test_paired_takes_the_first_of_equal_labels_once() -> None:
    assert matching.paired(["leg", "seat", "leg"], ["seat", "leg", "arm"]) == ((0, 1), (1, 0))
    assert matching.paired(["leg"], ["leg", "leg"]) == ((0, 0),)


def test_empty_masks_agree_with_each_other_only() -> None:
    empty, full = np.zeros((3, 3), bool), np.ones((3, 3), bool)
    iou = matching.iou_matrix([empty, full], [empty, full])
    assert iou.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_masks_of_another_size_are_refused() -> None:
    with pytest.raises(InvalidMaskError, match=r"predicted\[0\]: expected the size of truth"):
        matching.intersections([np.ones((2, 3), bool)], [np.ones((3, 2), bool)])
