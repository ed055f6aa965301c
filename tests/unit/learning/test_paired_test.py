"""Chance is told from a fall: rates over many drawn pairs of versions."""

from __future__ import annotations

import numpy as np
import pytest

from backend.learning.paired_test import has_fallen, has_lost

LABELS = frozenset({"lid"})


def drawn(rng, groups, lost, found):
    """Two versions on the same groups: of a third that is found some is lost, of the rest found."""
    before, after = [], []
    for _ in range(groups):
        pairs = []
        for _ in range(int(rng.integers(6, 14))):
            is_found = rng.random() < 0.35
            old = rng.uniform(0.5, 0.95) if is_found else rng.uniform(0, 0.5)
            is_other = rng.random() < (lost if is_found else found)
            new = rng.uniform(0.5, 0.95) if is_found != is_other else rng.uniform(0, 0.5)
            new = new if is_other else float(np.clip(old + rng.normal(0, 0.05), 0, 1))
            pairs.append((("lid", float(old)), ("lid", float(new))))
        before.append(tuple(old for old, _ in pairs))
        after.append(tuple(new for _, new in pairs))
    return tuple(before), tuple(after)


def rates(groups, lost, found, tries=200):
    rng = np.random.default_rng(5)
    pairs = [drawn(rng, groups, lost, found) for _ in range(tries)]
    return (
        sum(has_fallen(*pair) for pair in pairs) / tries,
        sum(has_lost(*pair, LABELS) for pair in pairs) / tries,
    )


@pytest.mark.parametrize("groups", [1, 4, 12])
def test_what_only_chance_moved_is_seldom_taken_for_worse(groups):
    assert max(rates(groups, lost=0.2, found=0.2 * 0.35 / 0.65)) <= 0.15
    assert max(rates(groups, lost=0.1, found=0.2)) <= 0.03


def test_a_collapse_is_seen_and_the_better_the_more_groups_there_are():
    few, many = (rates(groups, lost=0.7, found=0.02) for groups in (4, 12))
    assert min(few) > 0.6
    assert min(many) > 0.97


def test_only_the_asked_labels_count():
    before = ((("lid", 0.9),) * 6 + (("rim", 0.9),) * 6,)
    after = ((("lid", 0.9),) * 6 + (("rim", 0.1),) * 6,)
    assert not has_lost(before, after, LABELS)
    assert has_lost(before, after, frozenset({"rim"}))


def test_nothing_measured_is_no_fall():
    assert not has_fallen((), ())
    assert not has_fallen(((),), ((),))
    same = ((("lid", 0.4),), (("lid", 0.8),))
    assert not has_fallen(same, same)
