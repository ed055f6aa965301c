"""Masks as runs: found, measured and compared as the masks they stand for."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backend.rle import iou_of, length_of, mask_of, runs_of, small_mask_of

SIZES = st.sampled_from([(1, 1), (2, 4), (6, 7), (8, 16)])
MASKS = SIZES.flatmap(lambda size: arrays(np.bool_, (2, *size), elements=st.booleans()))


def drawn(runs, size):
    mask = np.zeros(size, np.bool_).reshape(-1)
    for first, last in runs:
        mask[first:last] = True
    return mask.reshape(size)


def smooth(size, *blocks):
    """A large mask of few runs, of whose pixels most are as those before."""
    mask = np.zeros((2, *size), np.bool_)
    for rows, columns in blocks:
        mask[:, rows, columns] = True
    return mask


@given(MASKS)
@example(np.zeros((2, 8, 8), np.bool_))
@example(np.ones((2, 8, 8), np.bool_))
@example(smooth((64, 64), (slice(9, 30), slice(3, 42)), (slice(40, 41), slice(7, 8))))
@example(smooth((64, 64), (slice(0, 3), slice(0, 64)), (slice(60, 64), slice(5, 64))))
@example(smooth((40, 56), (slice(7, 9), slice(8, 16)), (slice(20, 22), slice(15, 33))))
def test_runs_say_all_of_a_mask(pair):
    mask, _ = pair
    runs = runs_of(mask)
    assert (drawn(runs, mask.shape) == mask).all()
    assert length_of(runs) == mask.sum()
    assert (runs[:, 0] < runs[:, 1]).all()
    assert (runs[1:, 0] > runs[:-1, 1]).all()
    assert (runs_of(np.asfortranarray(mask)) == runs).all()


@given(MASKS)
@example(np.zeros((2, 8, 8), np.bool_))
@example(np.ones((2, 8, 8), np.bool_))
@example(np.indices((2, 96, 96)).sum(0) % 2 == 1)  # thousands of runs
def test_a_mask_comes_back_from_its_runs(pair):
    for mask in pair:
        back = mask_of(runs_of(mask), mask.shape)
        assert back.dtype == np.bool_
        assert (back == mask).all()


@given(MASKS)
def test_the_iou_of_runs_is_that_of_their_masks(pair):
    one, other = pair
    union = (one | other).sum()
    expected = (one & other).sum() / union if union else 0.0
    assert iou_of(runs_of(one), runs_of(other)) == pytest.approx(expected)


@given(MASKS, st.sampled_from([0.3, 0.5, 0.8]))
def test_what_is_not_worth_its_time_was_below_the_least(pair, least):
    one, other = (runs_of(mask) for mask in pair)
    iou = iou_of(one, other)
    found = iou_of(one, other, least=least)
    assert found == iou or (found == 0.0 and iou < least)


@given(MASKS, st.integers(1, 20), st.integers(1, 20))
def test_a_mask_in_another_size_shows_the_pixels_below_its_middles(pair, height, width):
    for mask in pair:
        shown = small_mask_of(runs_of(mask), mask.shape, (height, width))
        rows = [int(Fraction(2 * k + 1, 2 * height) * mask.shape[0]) for k in range(height)]
        columns = [int(Fraction(2 * k + 1, 2 * width) * mask.shape[1]) for k in range(width)]
        assert (shown == mask[rows][:, columns]).all()
