"""Fitted weights of MobileSAM's masks, on regions that are drawn from known weights."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from calico_model.inference.detection_odds import EdgeEvidence, EdgeWeights
from calico_model.inference.segments import Segment
from calico_model.types import ImageGroup, LabeledGroup, PartMask, RegionKind
from research.bench.edge_odds import JudgedRegion, edge_figures, fit_edges, judge_regions
from research.bench.outcome_fit import outcome_figures

PARTS = EdgeWeights(0.7, 0.2, 0.4, -0.5)
OBJECTS = EdgeWeights(1.2, 0.5, 0.8, -2.0)


def drawn(count: int, seed: int) -> list[JudgedRegion]:
    random = np.random.default_rng(seed)
    found = []
    for k in range(count):
        chance, iou, agreement = random.uniform(0.05, 0.95, 3)
        edges, is_object = EdgeEvidence(iou, agreement), k % 2 == 1
        odds = (OBJECTS if is_object else PARTS).log_odds(chance, edges)
        is_right = bool(random.uniform() < 1 / (1 + np.exp(-odds)))
        found.append(JudgedRegion(is_object, chance, edges, is_right))
    return found


def test_the_weights_that_made_the_outcomes_are_found_again():
    fitted = fit_edges({"few": drawn(4000, 0), "none": [], "many": drawn(12000, 1)})
    for found, true in zip(fitted, (PARTS, OBJECTS), strict=True):
        assert asdict(found) == pytest.approx(asdict(true), abs=0.15)
    good = edge_figures(drawn(4000, 2), fitted)
    flat = EdgeWeights(1.0, 0.0, 0.0, 0.0)
    assert good["log_loss"] < edge_figures(drawn(4000, 2), (flat, flat))["log_loss"]
    assert good["ece"] < 4


def test_only_what_is_likely_enough_counts_for_the_calibration_error():
    log_odds, right = np.array([-3.0, 3.0, 3.0]), np.array([True, True, False])
    assert outcome_figures(log_odds, right, 0.5)["ece"] == pytest.approx(45.3, abs=0.1)
    assert outcome_figures(log_odds, right, 0.99)["ece"] == 0


def test_regions_are_judged_by_their_drawn_masks():
    image = np.zeros((8, 8, 3), np.uint8)
    left = np.zeros((8, 8), bool)
    left[:, :4] = True
    truth = (PartMask(0, RegionKind.COMMON_PART, "Wheel", left),)
    labeled = LabeledGroup(ImageGroup((image,), ("a",)), truth, frozenset(RegionKind))
    edges = EdgeEvidence(0.9, 0.8)

    def segment(kind, mask, edges, chance=0.4):
        return Segment(kind, "wheel", 0, None, None, 0.5, mask=mask, chance=chance, edges=edges)

    class Loop:
        def draw(self, group):
            return [
                segment(RegionKind.UNIQUE_PART, left, edges),
                segment(RegionKind.COMMON_PART, ~left, edges),
                segment(RegionKind.COMMON_OBJECT, left, edges),
                segment(RegionKind.COMMON_PART, left, None),  # without MobileSAM
                segment(RegionKind.COMMON_PART, left, edges, chance=None),  # of a drawing
            ]

    assert judge_regions(Loop(), labeled) == [
        JudgedRegion(False, 0.4, edges, True),
        JudgedRegion(False, 0.4, edges, False),
        JudgedRegion(True, 0.4, edges, False),
    ]
