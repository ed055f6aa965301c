"""Masks of photographs, drawn by MobileSAM with its published weights and by no other network."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from calico_model.inference.photo_masks import refine_photo_masks
from calico_model.inference.segments import Segment
from calico_model.masks import mask_iou
from calico_model.modeling.mobile_sam import MobileSam, load_mobile_sam, mobile_sam_file
from calico_model.types import RegionKind

SIZE = 240, 320
DISC = cv2.circle(np.zeros(SIZE, np.uint8), (90, 120), 50, 1, -1) > 0
ROUGH = cv2.circle(np.zeros(SIZE, np.uint8), (94, 116), 46, 1, -1) > 0


class Networks:
    """A model without a photo refiner."""

    photo_refiner = None

    def __init__(self, sam: MobileSam | None) -> None:
        self._sam = sam

    def mobile_sam(self) -> MobileSam | None:
        return self._sam


@pytest.fixture(scope="module")
def networks() -> Networks:
    file = mobile_sam_file()
    assert file is not None, "make install brings the weights"
    return Networks(load_mobile_sam(file, 512))


def region(mask, kind=RegionKind.COMMON_OBJECT, image=1):
    return Segment(kind, "ball", image, None, None, 0.7, mask=mask, chance=0.6)


def images():
    empty = np.full((*SIZE, 3), (90, 120, 80), np.uint8)
    return empty, cv2.circle(empty.copy(), (90, 120), 50, (200, 60, 50), -1)


def test_masks_get_edges_and_scores_know_how_well_they_fit(networks):
    drawing = Segment(RegionKind.COMMON_PART, "leg", 0, None, None, 0.7)
    found = refine_photo_masks(networks, None, [region(ROUGH), drawing, region(DISC)], images())
    assert found[1] is drawing
    assert mask_iou(found[0].mask, DISC) > 0.95
    assert [one.chance for one in (found[0], found[2])] == [0.6, 0.6]
    assert found[0].edges.agreement < found[2].edges.agreement
    assert found[0].score < found[2].score


def test_without_mobile_sam_or_pixels_everything_stays(networks):
    before = [region(ROUGH), region(DISC, RegionKind.UNIQUE_PART)]
    assert refine_photo_masks(Networks(None), None, before, images()) == before
    assert refine_photo_masks(networks, None, before, None) == before
    assert refine_photo_masks(networks, None, [], images()) == []
    assert [one.score for one in before] == [0.6, 0.6]
