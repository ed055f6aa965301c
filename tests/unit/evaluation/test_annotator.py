"""What correcting a prediction takes: clicks, edits, names, and whether scores foretell it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calico_model.evaluation import annotator, calibration
from calico_model.evaluation.annotator import (
    SimulatedClick,
    click_curve,
    clicks_to,
    ideal_curve,
    next_click,
)
from calico_model.evaluation.protocol import evaluate
from calico_model.evaluation.regions import cut
from calico_model.types import BoolMask, LabeledGroup, PartMask
from tests.unit.evaluation.labeled_chairs import COMMON_PART, UNIQUE_PART, Oracle, box

Parts = Sequence[PartMask]
MASKS = hnp.arrays(np.bool_, (8, 9), elements=st.booleans())


@given(MASKS, MASKS)
def test_one_look_gives_the_curve_of_clicking(mask: np.ndarray, truth: np.ndarray) -> None:
    slow = click_curve(mask, truth)
    fast = ideal_curve(cut(mask), cut(truth))
    assert fast == pytest.approx(slow)
    assert len(fast) <= annotator.MAX_CLICKS + 1
    assert list(fast) == sorted(fast)


@given(MASKS)
def test_an_ideal_click_mends_each_missing_piece(truth: np.ndarray) -> None:
    curve = ideal_curve(None, cut(truth))
    assert curve == pytest.approx(click_curve(np.zeros_like(truth), truth))


def test_clicks_go_to_the_middle_of_the_largest_error() -> None:
    truth = box(4, 15, 4, 15)
    mask = box(4, 15, 4, 15) | box(24, 27, 24, 27)
    mask[5:14, 5:14] = False
    click = next_click(mask, truth)
    assert isinstance(click, SimulatedClick)
    assert (click.row, click.column, click.is_positive) == (9, 9, True)
    assert click.error.sum() == 81
    click = next_click(truth | box(24, 27, 24, 27), truth)
    assert click is not None
    assert (click.row, click.column, click.is_positive) == (25, 25, False)
    assert next_click(truth, truth) is None


def test_clicks_stay_inside_errors_that_touch_the_border() -> None:
    truth = box(0, 32, 0, 5)
    click = next_click(np.zeros_like(truth), truth)
    assert click is not None
    assert click.column == 2


def test_another_repair_needs_more_clicks() -> None:
    def dab(mask: BoolMask, click: SimulatedClick) -> BoolMask:
        """A brush of 3 x 3 pixels."""
        near = np.zeros_like(mask)
        near[max(0, click.row - 1) : click.row + 2, max(0, click.column - 1) : click.column + 2] = 1
        return np.where(near, click.is_positive, mask)

    truth = box(2, 8, 2, 8)
    curve = click_curve(np.zeros_like(truth), truth, repair=dab)
    assert clicks_to(0.9, ideal_curve(None, cut(truth))) == 1
    assert 4 <= clicks_to(0.9, curve) <= annotator.MAX_CLICKS


def test_a_useless_repair_gives_up_after_twenty_clicks() -> None:
    truth = box(2, 8, 2, 8)
    curve = click_curve(np.zeros_like(truth), truth, repair=lambda mask, click: mask)
    assert len(curve) == annotator.MAX_CLICKS + 1
    assert clicks_to(0.5, curve) == annotator.MAX_CLICKS


def value(groups: list[LabeledGroup], edit: object, name: str) -> float:
    report = evaluate(Oracle(groups, edit), groups, resamples=5)  # type: ignore[arg-type]
    return report.blocks["annotator", name].value


def test_the_truth_needs_no_correction(chairs: list[LabeledGroup]) -> None:
    report = evaluate(Oracle(chairs), chairs, resamples=5)
    figures = {path[1]: m.value for path, m in report.blocks.items() if path[0] == "annotator"}
    assert figures == {
        "accept_rate": 100,
        "label_clicks_saved": 100,
        "edit_ratio": 0,
        **dict.fromkeys(("added", "deleted", "relabeled", "redrawn"), 0),
        **dict.fromkeys(("NoC@80", "NoC@85", "NoC@90"), 0),
    }


def test_silence_costs_one_click_a_region_and_every_name(chairs: list[LabeledGroup]) -> None:
    def silent(parts: Parts) -> Parts:
        return ()

    assert value(chairs, silent, "NoC@90") == 1
    assert value(chairs, silent, "added") == len(chairs[0].parts)
    assert value(chairs, silent, "label_clicks_saved") == 0
    assert np.isnan(value(chairs, silent, "accept_rate"))
    assert np.isnan(value(chairs, silent, "edit_ratio"))


def test_each_kind_of_correction_is_counted(chairs: list[LabeledGroup]) -> None:
    def spoil(parts: Parts) -> Parts:
        kept = [part for part in parts if part.label != "front wheel"]
        kept.append(PartMask(1, UNIQUE_PART, "lamp", box(0, 2, 0, 2)))
        edited = []
        for part in kept:
            if part.label == "arm rest":
                edited.append(replace(part, label="rail"))
            elif part.label == "leg":
                half = part.mask.copy()
                half[:, 7:] = False
                edited.append(replace(part, mask=half))
            else:
                edited.append(part)
        return edited

    report = evaluate(Oracle(chairs, spoil), chairs, resamples=5)
    figures = {path[1]: m.value for path, m in report.blocks.items() if path[0] == "annotator"}
    assert (figures["added"], figures["deleted"]) == (1, 1)
    assert (figures["relabeled"], figures["redrawn"]) == (1, 2)
    # Of eight proposals the objects and the seats are kept as they are.
    assert figures["accept_rate"] == pytest.approx(100 * 4 / 8)
    assert figures["label_clicks_saved"] == pytest.approx(100 * 6 / 8)
    assert figures["NoC@90"] == pytest.approx(3 / 8)
    assert figures["edit_ratio"] == 0


def test_edit_ratio_is_the_median_of_matched_proposals(chairs: list[LabeledGroup]) -> None:
    def legs_only(parts: Parts) -> Parts:
        half = []
        for part in parts:
            if part.label == "leg":
                mask = part.mask.copy()
                mask[:, 7:] = False
                half.append(replace(part, mask=mask))
        return half

    assert value(chairs, legs_only, "edit_ratio") == 50


def test_scores_that_keep_their_word_are_calibrated(chairs: list[LabeledGroup]) -> None:
    def sure(parts: Parts) -> Parts:
        wrong = PartMask(0, COMMON_PART, "ghost", box(0, 2, 30, 32), score=0.0)
        return [*parts, wrong]

    report = evaluate(Oracle(chairs, sure), chairs, resamples=5)
    figures = {path[1]: m.value for path, m in report.blocks.items() if path[0] == "calibration"}
    assert (figures["ECE"], figures["Brier"], figures["AUROC"]) == (0, 0, 100)
    assert figures["precision@80"] == 100
    assert sum(part.n for part in report.reliability) == 6 * 9
    assert report.reliability[0].accuracy == 0
    assert report.reliability[-1].accuracy == 1


def test_auroc_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    score, right = rng.integers(0, 5, 60) / 5, rng.random(60) < 0.4
    pairs = [(float(a > b) + 0.5 * float(a == b)) for a in score[right] for b in score[~right]]
    assert calibration.calibrate(score, right)["AUROC"] == pytest.approx(np.mean(pairs))


def test_calibration_of_nothing_is_not_a_number() -> None:
    nothing = calibration.calibrate(np.zeros(0), np.zeros(0, dtype=bool))
    assert all(np.isnan(figure) for figure in nothing.values())
    one_sided = calibration.calibrate(np.array([0.3, 1.0]), np.array([True, True]))
    assert np.isnan(one_sided["AUROC"])
    assert one_sided["precision@50"] == 1
