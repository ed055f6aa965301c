"""Scores become chances, keep their order, and change nothing until something was learned."""

from __future__ import annotations

import numpy as np
import pytest

from calico_model.errors import CheckpointError, InvalidConfigError
from calico_model.evaluation.calibration import calibrate
from calico_model.inference.confidence import (
    CALIBRATION_FILE,
    CONFIDENCE_FILE,
    Calibration,
    Confidence,
    EvidenceOutcome,
    fit_calibration,
    fit_confidence,
    read_calibration,
    read_confidence,
    write_beside,
)
from calico_model.types import GroupPrediction, MaskEvidence, PartMask, RegionKind

TRUE = Confidence(iou=2.0, mask=1.0, phrase=0.5, bias=1.5)


def drawn(count, seed, truth=TRUE):
    """Regions whose chance of being right is what `truth` says."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        evidence = MaskEvidence(rng.uniform(0.1, 1), rng.uniform(0.5, 1), rng.uniform(0.2, 1))
        found.append(EvidenceOutcome(evidence, bool(rng.random() < truth.score(evidence))))
    return found


def part(score, evidence=None):
    mask = np.ones((4, 4), bool)
    return PartMask(0, RegionKind.COMMON_PART, "lid", mask, score=score, evidence=evidence)


def test_the_fit_finds_what_made_the_outcomes():
    found = fit_confidence(drawn(20_000, 0))
    assert (found.iou, found.mask, found.phrase, found.bias) == pytest.approx(
        (2.0, 1.0, 0.5, 1.5), abs=0.25
    )


def test_the_fit_calibrates_regions_it_has_not_seen():
    found = fit_confidence(drawn(3000, 1))
    fresh = drawn(3000, 2)
    right = np.array([one.is_right for one in fresh])
    plain = np.array([one.evidence.iou * one.evidence.phrase for one in fresh])
    scores = np.array([found.score(one.evidence) for one in fresh])
    before, after = calibrate(plain, right), calibrate(scores, right)
    assert after["ECE"] < 0.03 < before["ECE"]
    assert after["AUROC"] >= before["AUROC"] - 0.01


def test_evidence_that_misleads_gets_no_weight_but_never_a_negative_one():
    rng = np.random.default_rng(3)
    outcomes = [
        EvidenceOutcome(MaskEvidence(iou, 0.9, 1 - iou), bool(rng.random() < iou))
        for iou in rng.random(2000)
    ]
    found = fit_confidence(outcomes)
    assert found.phrase == 0.0
    assert found.iou > 0


@pytest.mark.parametrize("right", [True, False])
def test_outcomes_of_one_sort_teach_nothing(right):
    outcomes = [EvidenceOutcome(MaskEvidence(0.5, 0.9, 0.5), right)] * 10
    with pytest.raises(InvalidConfigError, match="right and wrong"):
        fit_confidence(outcomes)


@pytest.mark.parametrize("factor", ["iou", "mask", "phrase"])
def test_more_evidence_never_lowers_a_score(factor):
    scores = [
        TRUE.score(MaskEvidence(**({"iou": 0.7, "mask": 0.8, "phrase": 0.6} | {factor: value})))
        for value in np.linspace(0, 1, 50)
    ]
    assert scores == sorted(scores)
    assert all(0 <= score <= 1 for score in scores)


def test_a_prediction_gets_new_scores_where_there_is_evidence():
    evidence = MaskEvidence(0.9, 0.95, 0.8)
    prediction = GroupPrediction((part(0.72, evidence), part(1.0)), "v")
    scored = TRUE.apply(prediction)
    assert [one.score for one in scored.parts] == [TRUE.score(evidence), 1.0]
    assert scored.parts[0].mask is prediction.parts[0].mask


def test_a_project_without_outcomes_keeps_its_scores_bit_for_bit():
    calibration = fit_calibration(np.array([]), np.array([], bool))
    prediction = GroupPrediction((part(0.1234567891234),), "v")
    assert calibration.is_identity
    assert calibration.apply(prediction) is prediction
    assert calibration.score(0.1234567891234) == 0.1234567891234


def test_a_strict_project_lowers_scores_little_by_little():
    moved = []
    for count in (1, 10, 100, 1000):
        found = fit_calibration(np.full(count, 0.8), np.zeros(count, bool))
        moved.append(found.score(0.8))
    assert moved == sorted(moved, reverse=True)
    assert moved[0] > 0.7  # one angry click is no verdict
    assert moved[-1] < 0.1


def test_calibration_learns_a_project_and_keeps_the_order():
    rng = np.random.default_rng(4)
    before = rng.random(2000)
    right = rng.random(2000) < before**3  # these annotators are hard to please
    found = fit_calibration(before, right)
    after = np.array([found.score(score) for score in before])
    assert calibrate(after, right)["ECE"] < calibrate(before, right)["ECE"] / 3
    assert list(np.argsort(after)) == list(np.argsort(before))


def test_outcomes_turned_upside_down_do_not_turn_the_order():
    score = np.linspace(0.01, 0.99, 500)
    found = fit_calibration(score, score < 0.5)
    assert found.slope > 0
    assert found.score(0.9) > found.score(0.1)


@pytest.mark.parametrize("score", [0.01, 0.3, 0.5, 0.9, 0.99])
def test_what_was_bent_can_be_undone(score):
    found = Calibration(0.6, -1.0, 20)
    assert found.undo(found.score(score)) == pytest.approx(score)
    assert Calibration().undo(score) == score


def test_fits_lie_beside_what_they_belong_to(tmp_path):
    assert read_confidence(tmp_path) is None
    assert read_calibration(tmp_path) == Calibration()
    write_beside(tmp_path, TRUE)
    write_beside(tmp_path, Calibration(0.5, 0.25, 7))
    assert read_confidence(tmp_path) == TRUE
    assert read_calibration(tmp_path) == Calibration(0.5, 0.25, 7)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"iou": 1}', '{"iou":"x","mask":1,"phrase":1,"bias":0}']
)
def test_a_broken_confidence_names_its_file(tmp_path, text):
    (tmp_path / CONFIDENCE_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=CONFIDENCE_FILE):
        read_confidence(tmp_path)


@pytest.mark.parametrize("text", ["[]", '{"slope": 0}', '{"slope": -1}', '{"slop": 1}'])
def test_a_broken_calibration_names_its_file(tmp_path, text):
    (tmp_path / CALIBRATION_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=CALIBRATION_FILE):
        read_calibration(tmp_path)
