"""Metrics of single images, strict and compat, and average precision against pycocotools."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from calico_model.evaluation import bootstrap, metrics
from calico_model.evaluation.units import build_unit
from tests.unit.evaluation.labeled_chairs import box

Region = tuple[str, np.ndarray, float]


def scenes(seed: int) -> list[tuple[list[Region], list[tuple[str, np.ndarray]]]]:
    """Images of 0 to 4 disjoint truths and up to 6 shifted, missing or invented predictions."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(25):
        truth = [
            (f"t{slot}", box(2, 26, 8 * (slot % 4), 8 * (slot % 4) + 7))
            for slot in range(int(rng.integers(0, 5)))
        ]
        predicted: list[Region] = []
        for label, mask in truth:
            if rng.random() < 0.8:
                moved = np.roll(mask, int(rng.integers(0, 12)), axis=0)
                predicted.append((label, moved, float(rng.random())))
        predicted += [
            ("extra", rng.random((32, 32)) < 0.2, float(rng.random()))
            for _ in range(int(rng.integers(0, 3)))
        ]
        drawn.append((predicted, truth))
    return drawn


def coco_ap50(drawn: list, *, by_score: bool) -> float:
    def rle(mask: np.ndarray) -> dict:
        return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))

    images = [{"id": i, "height": 32, "width": 32} for i in range(len(drawn))]
    truth, found = [], []
    for image, (predicted, true) in enumerate(drawn):
        for _, mask in true:
            truth.append(
                {"id": len(truth) + 1, "image_id": image, "category_id": 1, "iscrowd": 0}
                | {"segmentation": rle(mask), "area": float(mask.sum())}
            )
        for _, mask, score in predicted:
            found.append(
                {"image_id": image, "category_id": 1, "segmentation": rle(mask)}
                | {"score": score if by_score else 1.0}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": images, "annotations": truth, "categories": [{"id": 1}]}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "segm")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]  # (IoU, recall, category, area, detections)
    return float(precision[0, :, 0, 0, -1].mean())


@pytest.mark.parametrize("by_score", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_average_precision_equals_pycocotools(seed: int, by_score: bool) -> None:
    drawn = scenes(seed)
    ranked, truths = [], []
    for predicted, truth in drawn:
        unit = build_unit(0, predicted, truth)
        ranked += [(0, s, hit) for s, hit in metrics.ranked_hits(unit, by_score=by_score)]
        truths.append((0, len(truth)))
    ours = bootstrap.average_precision(ranked, truths, bootstrap.draw_counts(1, 1, 0))
    assert 0.1 < ours.value < 0.95
    assert ours.value == pytest.approx(coco_ap50(drawn, by_score=by_score), abs=1e-9)


def test_same_label_average_precision_refuses_wrong_names() -> None:
    mask = box(0, 8, 0, 8)
    unit = build_unit(0, [("Legs", mask, 0.9), ("arm", mask, 0.8)], [("leg", mask)])
    assert metrics.ranked_hits(unit, by_score=True, same_label=True) == [(0.9, True), (0.8, False)]
    wrong = build_unit(0, [("arm", mask, 0.8)], [("leg", mask)])
    assert metrics.ranked_hits(wrong, by_score=True, same_label=True) == [(0.8, False)]
    assert metrics.ranked_hits(wrong, by_score=True) == [(0.8, True)]


def test_score_orders_strict_and_output_orders_compat() -> None:
    hit, miss = box(0, 8, 0, 8), box(20, 28, 20, 28)
    unit = build_unit(0, [("a", miss, 0.2), ("a", hit, 0.9)], [("a", hit)])
    assert metrics.ranked_hits(unit, by_score=True) == [(0.9, True), (0.2, False)]
    assert metrics.ranked_hits(unit, by_score=False) == [(1.0, False), (1.0, True)]


def test_only_a_hundred_detections_count() -> None:
    mask = box(0, 4, 0, 4)
    unit = build_unit(0, [("a", mask, 0.5)] * 130, [("a", mask)])
    assert len(metrics.ranked_hits(unit, by_score=True)) == 100


def test_extra_masks_cost_strict_but_not_compat() -> None:
    truth = [("a", box(0, 8, 0, 8))]
    predicted = [("a", box(0, 8, 0, 8), 1.0), ("b", box(20, 28, 0, 8), 1.0)]
    unit = build_unit(0, predicted, truth)
    assert metrics.STRICT["mIoU"](unit) == (0.5, 1.0)
    assert metrics.COMPAT["mIoU"](unit) == (1.0, 1.0)


def test_unmatched_truth_costs_label_metrics_in_strict_only() -> None:
    truth = [("landing gear", box(0, 8, 0, 8)), ("wing", box(20, 28, 0, 8))]
    unit = build_unit(0, [("fixed landing gear", box(0, 8, 0, 8), 1.0)], truth)
    assert metrics.STRICT["S-IoU"](unit) == (pytest.approx(2 / 3), 2)
    assert metrics.COMPAT["S-IoU"](unit) == (pytest.approx(2 / 3), 1)
    assert metrics.STRICT["SS"](unit)[0] == metrics.COMPAT["SS"](unit)[0] < 1.0


def test_image_without_truth_is_silent_in_compat_and_zero_in_strict() -> None:
    unit = build_unit(0, [("a", box(0, 8, 0, 8), 1.0)], [])
    assert metrics.STRICT["mIoU"](unit) == (0.0, 1.0)
    assert all(tally(unit)[1] == 0 for tally in metrics.COMPAT.values())


def test_image_with_nothing_has_no_say() -> None:
    unit = build_unit(0, [], [])
    assert all(tally(unit) == (0.0, 0.0) for tally in metrics.STRICT.values())
    assert all(tally(unit) == (0.0, 0.0) for tally in metrics.COMPAT.values())


def test_empty_prediction_scores_zero_everywhere() -> None:
    unit = build_unit(0, [], [("a", box(0, 8, 0, 8))])
    assert all(tally(unit)[0] == 0 for tally in metrics.STRICT.values())
    assert metrics.COMPAT["mIoU"](unit) == (0.0, 1.0)


def test_interval_narrows_with_more_groups() -> None:
    widths = []
    for groups in (10, 1000):
        tallies = [(g, float(g % 2), 1.0) for g in range(groups)]
        metric = bootstrap.ratio(tallies, bootstrap.draw_counts(groups, 500, 0)).metric()
        assert metric.value == 50.0
        assert metric.lo < 50 < metric.hi
        widths.append(metric.hi - metric.lo)
    assert widths[1] == pytest.approx(2 * 1.96 * 50 / 1000**0.5, rel=0.15)
    assert widths[1] < widths[0] / 5


def test_resamples_keep_the_number_of_groups_and_repeat_by_seed() -> None:
    counts = bootstrap.draw_counts(7, 50, 3)
    assert (counts.sum(axis=1) == 7).all()
    assert np.array_equal(counts, bootstrap.draw_counts(7, 50, 3))
    assert not np.array_equal(counts, bootstrap.draw_counts(7, 50, 4))


def test_resampled_precision_equals_precision_of_the_resample() -> None:
    ranked = [(0, 0.9, True), (0, 0.3, False), (1, 0.8, False), (2, 0.7, True)]
    truths = [(0, 2), (1, 1), (2, 1)]
    counts = np.array([[1, 0, 2]])
    copy = bootstrap.average_precision(ranked, truths, counts).copies[0]
    hits = np.array([True, True, True, False])
    assert copy == pytest.approx(bootstrap.precision_over_recall(hits, 4))


def test_nothing_to_find_is_not_a_number() -> None:
    assert np.isnan(bootstrap.precision_over_recall(np.array([True]), 0))
    assert np.isnan(bootstrap.ratio([], bootstrap.draw_counts(2, 3, 0)).value)
    assert np.isnan(bootstrap.mean_of([]).metric().value)
