"""What can be drawn, and what is kept out of training."""

from __future__ import annotations

import numpy as np
import pytest

from calico_model.data.catalogue import (
    CATEGORIES,
    HELD_OUT_CATEGORIES,
    HELD_OUT_PARTS,
    PART_NAMES,
    TRAINED_CATEGORIES,
    WITHHELD_PAIRS,
    category,
    partners,
    parts_of,
)
from calico_model.data.styles import HELD_OUT_STYLES, TRAINED_STYLES


def test_catalogue_has_the_promised_size() -> None:
    assert len(TRAINED_CATEGORIES) >= 24
    assert len(HELD_OUT_CATEGORIES) == 4
    assert len(PART_NAMES) - len(HELD_OUT_PARTS) >= 40
    assert len(HELD_OUT_PARTS) == 4
    assert len(TRAINED_STYLES) >= 8
    assert len(HELD_OUT_STYLES) == 1
    assert len(set(CATEGORIES)) == len(CATEGORIES)
    assert len(set(PART_NAMES)) == len(PART_NAMES) < 255


def test_held_out_names_come_last() -> None:
    assert CATEGORIES[-4:] == HELD_OUT_CATEGORIES
    assert PART_NAMES[-4:] == HELD_OUT_PARTS


def test_held_out_parts_occur_on_held_out_categories_only() -> None:
    trained = {part for name in TRAINED_CATEGORIES for part in parts_of(name)}
    held_out = {part for name in HELD_OUT_CATEGORIES for part in parts_of(name)}
    assert not trained & set(HELD_OUT_PARTS)
    assert held_out >= set(HELD_OUT_PARTS)


@pytest.mark.parametrize("name", CATEGORIES)
def test_builder_draws_exactly_the_declared_parts(name: str) -> None:
    kind = category(name)
    for seed in range(5):
        for extras in (frozenset[str](), frozenset(kind.extras)):
            pieces = kind.build(np.random.default_rng(seed), extras)
            assert {piece.part for piece in pieces} == set(kind.parts) | extras
            points = np.concatenate([o for piece in pieces for o in piece.contours])
            assert np.isfinite(points).all()
            assert np.abs(points).max() < 1.3


def test_withheld_names_are_each_known_from_training() -> None:
    for name in TRAINED_CATEGORIES:
        assert category(name).withheld <= set(category(name).extras)
        assert len(category(name).withheld) in (0, 2)
    for pair in WITHHELD_PAIRS:
        first, second = sorted(pair)
        assert set(parts_of(first)) & set(parts_of(second))


def test_partners_share_the_part_and_the_half() -> None:
    assert set(partners("chair", "leg")) == {"stool", "table", "dog", "cat", "horse"}
    assert set(partners("crab", "leg")) == {"helicopter", "wheelbarrow"}
    assert partners("tree", "crown") == ()
