"""Groups of similar things: every one once, in wanted sizes, its own kind first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_model.similarity import grouping
from calico_model.similarity.grouping import group_similar


def kinds(count, members, *, seed=0, noise=0.2):
    """(count * members, 16) float32: `members` things around each of `count` directions."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(rng.normal(size=(count, 16)), members, axis=0)
    return (centres + noise * rng.normal(size=centres.shape)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(0, 70),
    low=st.integers(1, 8),
    more=st.integers(0, 7),
    seed=st.integers(0, 2**16),
)
def test_every_thing_is_in_one_group_of_a_wanted_size(count, low, more, seed):
    high = min(8, low + more)
    vectors = np.random.default_rng(seed).normal(size=(count, 5)).astype(np.float32)
    groups = group_similar(vectors, (low, high))
    assert sorted(member for group in groups for member in group) == list(range(count))
    assert all(1 <= len(group) <= high for group in groups)
    assert sum(len(group) < low for group in groups) <= 1


@pytest.mark.parametrize("sizes", [(2, 2), (4, 4), (3, 8), (1, 8)])
def test_things_of_one_kind_come_together(sizes):
    vectors = kinds(12, 8)
    for group in group_similar(vectors, sizes):
        assert len({member // 8 for member in group}) == 1


def test_few_groups_hold_strangers_where_numbers_do_not_come_out_even():
    groups = group_similar(kinds(12, 7), (2, 4))
    mixed = sum(len({member // 7 for member in group}) > 1 for group in groups)
    assert mixed <= 0.1 * len(groups)


def test_the_last_one_takes_its_nearest_away_from_a_full_group():
    assert sorted(map(len, group_similar(kinds(1, 5), (2, 4)))) == [2, 3]


def test_things_that_are_all_alike_are_divided_too():
    assert sorted(map(len, group_similar(np.ones((9, 3), np.float32), (2, 2)))) == [1, 2, 2, 2, 2]


def test_parts_of_a_large_number_are_as_one(monkeypatch):
    monkeypatch.setattr(grouping, "MOST_IN_A_TREE", 20)
    vectors = kinds(15, 6)
    groups = group_similar(vectors, (3, 3))
    assert sorted(member for group in groups for member in group) == list(range(90))
    pure = sum(len({member // 6 for member in group}) == 1 for group in groups)
    assert pure >= 0.8 * len(groups)
    same = group_similar(np.ones((90, 3), np.float32), (3, 3))
    assert {len(group) for group in same} == {3}


def test_the_same_things_are_grouped_the_same_way():
    vectors = kinds(9, 7, noise=1.0)
    assert group_similar(vectors, (2, 4)) == group_similar(vectors.copy(), (2, 4))
