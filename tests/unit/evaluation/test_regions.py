"""Masks cut to their boxes count the same pixels as whole ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calico_model.errors import InvalidMaskError
from calico_model.evaluation.regions import (
    CroppedRegion,
    cut,
    empty_like,
    frame,
    merge_by_label,
    shared_pixels,
    unite,
)
from tests.unit.evaluation.labeled_chairs import COMMON_PART, box

MASKS = hnp.arrays(np.bool_, (6, 7), elements=st.booleans())
SPARSE = st.builds(
    lambda mask, rows, columns: mask & np.outer(rows, columns),
    MASKS,
    hnp.arrays(np.bool_, 6, elements=st.booleans()),
    hnp.arrays(np.bool_, 7, elements=st.booleans()),
)


@given(SPARSE, SPARSE)
def test_crops_count_what_masks_count(first: np.ndarray, second: np.ndarray) -> None:
    ours, theirs = cut(first), cut(second)
    assert ours.area == first.sum()
    assert shared_pixels(ours, theirs) == (first & second).sum()
    assert np.array_equal(ours.window((0, 6, 0, 7)), first)
    assert np.array_equal(unite([ours, theirs]).window((0, 6, 0, 7)), first | second)
    top, bottom, left, right = frame([ours, theirs])
    assert (first | second).sum() == (first | second)[top:bottom, left:right].sum()


def test_a_crop_does_not_hold_on_to_the_image() -> None:
    mask = box(3, 5, 10, 14)
    assert cut(mask).pixels.shape == (2, 4)
    assert cut(mask).pixels.base is None
    assert cut(cut(mask)).box == (3, 5, 10, 14)
    assert empty_like(cut(mask)).area == 0


def test_masks_of_different_images_do_not_unite() -> None:
    with pytest.raises(InvalidMaskError, match="expected the size"):
        unite([cut(box(0, 2, 0, 2)), cut(np.ones((3, 3), dtype=bool))])


def test_regions_of_one_name_are_merged_with_the_higher_score() -> None:
    regions = [
        CroppedRegion(0, COMMON_PART, "Leg", cut(box(0, 2, 0, 2)), score=0.2),
        CroppedRegion(0, COMMON_PART, "seat", cut(box(4, 6, 0, 2)), score=0.5),
        CroppedRegion(0, COMMON_PART, "legs", cut(box(0, 2, 8, 10)), score=0.9),
    ]
    merged = merge_by_label(regions)
    assert [(r.label, r.score, r.mask.area) for r in merged] == [("Leg", 0.9, 8), ("seat", 0.5, 4)]
