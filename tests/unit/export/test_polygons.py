"""Outlines show the masks they were made of."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from backend.export.polygons import fill_line, outline, single_line
from calico_model.masks import mask_iou

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24)))


def piece_count(mask):
    """Number of pieces and holes."""
    lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return len(lines)


@settings(deadline=None, max_examples=150)
@given(MASKS.filter(lambda mask: bool(mask.any())))
def test_one_line_holds_every_pixel_and_is_exact_for_one_piece(mask):
    drawn = fill_line(single_line(mask, most_corners=999), mask.shape)
    assert drawn[mask].mean() >= 0.99
    if piece_count(mask) == 1:
        assert mask_iou(drawn, mask) >= 0.99


@settings(deadline=None, max_examples=100)
@given(MASKS.filter(lambda mask: bool(mask.any())))
def test_exact_outlines_are_the_mask_for_pycocotools(mask):
    found = outline(mask, tolerance=0)
    rings = [ring.ravel().tolist() for ring in found.outer]
    merged = coco_mask.merge(coco_mask.frPyObjects(rings, *mask.shape))
    filled = fill_holes(mask) if found.holes else mask
    assert coco_mask.area(merged) == filled.sum()


def fill_holes(mask):
    lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros(mask.shape, np.uint8), lines, -1, 1, -1).astype(bool)


def test_a_hole_stays_a_hole_and_pieces_stay_joined():
    rows, columns = np.mgrid[:200, :200]
    distance = np.hypot(rows - 70, columns - 70)
    mask = (distance < 60) & (distance > 30) | (np.hypot(rows - 160, columns - 160) < 20)
    drawn = fill_line(single_line(mask, most_corners=999), mask.shape)
    assert not drawn[70, 70]
    assert mask_iou(drawn, mask) >= 0.98
    assert piece_count(drawn) == 2  # one piece, one hole


@pytest.mark.parametrize("most", [40, 999])
def test_a_long_line_becomes_simpler_and_specks_go_first(most):
    rng = np.random.default_rng(3)
    mask = np.zeros((300, 300), bool)
    mask[50:250, 50:250] = True
    for row, column in rng.integers(0, 300, (400, 2)):
        mask[row, column] = True
    line = single_line(mask, most_corners=most)
    assert len(line) <= most
    assert mask_iou(fill_line(line, mask.shape), mask) >= 0.95
