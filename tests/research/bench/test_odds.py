"""Fitted odds, on detections that are drawn from known odds."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch

from calico_model.data.coco_parts import ANNOTATIONS_FILE
from calico_model.errors import InvalidConfigError
from calico_model.inference.dense_detection import Detection
from calico_model.inference.detection_odds import DetectionEvidence, OddsWeights
from calico_model.types import ImageGroup, LabeledGroup, PartMask, RegionKind
from research.bench.odds import (
    JudgedDetection,
    bench_odds,
    fit_odds,
    judge_detections,
    odds_figures,
)

PARTS = OddsWeights(1.2, 0.6, 0.4, 0.8, 0.3, 0.5, 0.2, -3.0)
OBJECTS = OddsWeights(0.9, 0.5, 0.7, 1.5, 0.0, 0.0, 0.0, -4.0)


def drawn(count: int, seed: int) -> list[JudgedDetection]:
    random = np.random.default_rng(seed)
    found = []
    for k in range(count):
        overlap, certainty, peak, elsewhere = random.uniform(0.05, 0.95, 4)
        images = int(random.integers(10, 60))
        evidence = DetectionEvidence(
            is_object=k % 2 == 1,
            overlap=overlap,
            certainty=certainty,
            peak=peak,
            elsewhere=elsewhere,
            images=images,
            seen=int(random.integers(1, images + 1)),
            names=int(random.integers(2, 50)),
        )
        shift = float(random.normal())
        odds = (OBJECTS if evidence.is_object else PARTS).log_odds(evidence) + shift
        is_right = bool(random.uniform() < 1 / (1 + np.exp(-odds)))
        found.append(JudgedDetection(evidence, shift, is_right))
    return found


def test_the_weights_that_made_the_outcomes_are_found_again():
    parts, objects = fit_odds({"few": drawn(4000, 0), "many": drawn(12000, 1)})
    for fitted, true in ((parts, PARTS), (objects, OBJECTS)):
        for name, value in asdict(true).items():
            assert getattr(fitted, name) == pytest.approx(
                value, abs=0.6 if name == "shift" else 0.2
            )
    # What does not count for objects is not fitted.
    assert max(abs(objects.peak), abs(objects.seen), abs(objects.names)) < 1e-4


def test_every_set_has_the_same_weight():
    right, wrong = (
        [JudgedDetection(one.evidence, 0.0, is_right) for one in drawn(count, 2)]
        for is_right, count in ((True, 100), (False, 5000))
    )
    parts, _ = fit_odds({"right": right, "wrong": wrong})
    alone, _ = fit_odds({"both": [*right, *wrong]})
    one = right[0].evidence
    assert abs(parts.log_odds(one)) < 1.5
    assert alone.log_odds(one) < -2.5


def test_fitted_weights_explain_their_own_outcomes_better():
    found = drawn(3000, 3)
    good = odds_figures(found, (PARTS, OBJECTS))
    flat = OddsWeights(*[0.0] * 8)
    bad = odds_figures(found, (flat, flat))
    assert good["log_loss"] < bad["log_loss"]
    assert good["ece"] < bad["ece"]
    assert odds_figures(found, fit_odds({"set": found}))["log_loss"] <= good["log_loss"] + 1e-4


def test_a_detection_is_right_by_its_name_and_its_mask():
    image = np.zeros((8, 8, 3), np.uint8)
    left = np.zeros((8, 8), bool)
    left[:, :4] = True
    truth = (PartMask(0, RegionKind.COMMON_PART, "Wheel", left),)
    labeled = LabeledGroup(ImageGroup((image,), ("a",)), truth, frozenset(RegionKind))
    nothing = torch.zeros(2, 2)
    evidence = drawn(1, 4)[0].evidence

    class Loop:
        def detect(self, group):
            for label, is_object, mask in (
                ("wheel", False, left),
                ("wheel", False, ~left),
                ("door", False, left),
                ("wheel", True, left),
                ("wheel", False, None),
            ):
                yield (
                    Detection(0, label, is_object, 0.5, 0.5, nothing, nothing, mask=mask),
                    evidence,
                    0.25,
                )

    judged = judge_detections(Loop(), labeled)
    assert [one.is_right for one in judged] == [True, False, False, False, False]
    assert {one.shift for one in judged} == {0.25}


def test_a_set_that_is_not_there_is_named(tmp_path):
    (tmp_path / "cars").mkdir()
    (tmp_path / "cars" / ANNOTATIONS_FILE).write_text("{}")
    with pytest.raises(InvalidConfigError, match=r"--only: .*\(cars\), got boats"):
        bench_odds(tmp_path, only=["boats"])
