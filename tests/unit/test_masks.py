"""Overlap of two masks, and the rectangle around one, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from calico_model.masks import extent_of, mask_iou, window_of
from calico_model.types import BoolMask


def rectangle(rows: slice, columns: slice, size_hw: tuple[int, int] = (6, 9)) -> BoolMask:
    mask = np.zeros(size_hw, np.bool_)
    mask[rows, columns] = True
    return mask


EMPTY = rectangle(slice(0), slice(0))
BAR = rectangle(slice(1, 3), slice(2, 6))


@pytest.mark.parametrize(
    ("other", "iou"),
    [
        (BAR, 1.0),
        (rectangle(slice(1, 3), slice(4, 9)), 4 / 14),
        (rectangle(slice(3, 6), slice(2, 6)), 0.0),
        (EMPTY, 0.0),
        (rectangle(slice(1, 3), slice(2, 6), (6, 10)), 0.0),
    ],
)
def test_the_overlap_is_shared_pixels_by_covered_pixels(other: BoolMask, iou: float) -> None:
    assert mask_iou(BAR, other) == mask_iou(other, BAR) == iou


def test_two_empty_masks_are_equal() -> None:
    assert mask_iou(EMPTY, EMPTY) == 1.0


def test_the_rectangle_ends_behind_the_last_pixel() -> None:
    two_pixels = EMPTY.copy()
    two_pixels[1, 7] = two_pixels[4, 3] = True
    assert window_of(two_pixels) == (slice(1, 5), slice(3, 8))
    assert extent_of(two_pixels) == (3.0, 1.0, 8.0, 5.0)
    assert window_of(~EMPTY) == (slice(0, 6), slice(0, 9))


def test_an_empty_mask_has_no_rectangle() -> None:
    assert window_of(EMPTY) is None
    assert extent_of(EMPTY) is None
