"""The hand-worked cases of tests/golden/metrics.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calico_model.evaluation import bootstrap, matching, metrics, structure
from calico_model.evaluation.regions import as_regions
from calico_model.types import PartMask, RegionKind
from calico_model.vocabulary import normalise

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "golden" / "metrics.json").read_text()
)
CLOSE = {"abs": 5e-5}


def box(side: int, rows_columns: list[int]) -> np.ndarray:
    mask = np.zeros((side, side), dtype=bool)
    top, bottom, left, right = rows_columns
    mask[top:bottom, left:right] = True
    return mask


def grid(which: str) -> list[tuple[str, np.ndarray]]:
    case = GOLDEN["grid"]
    return [(name, box(case["side"], where)) for name, where in case[which].items()]


def grid_unit() -> metrics.Unit:
    return metrics.unit(0, [(n, m, 1.0) for n, m in grid("predicted")], grid("truth"))


def overlap_unit(iou: list[list[float]], predicted: str, truth: str) -> metrics.Unit:
    """A unit whose IoU is given: every region has 1000 pixels, one letter is one label."""
    given = np.array(iou, dtype=float).reshape(len(predicted), len(truth))
    shared = 2000 * given / (1 + given)
    ours, theirs = np.full(len(predicted), 1000.0), np.full(len(truth), 1000.0)
    return metrics.Unit(0, shared, ours, theirs, tuple(predicted), tuple(truth), ours / 1000)


def pooled(tally: Any, units: list[metrics.Unit]) -> float:
    parts = [(0, *tally(unit)) for unit in units]
    return bootstrap.ratio(parts, bootstrap.draw_counts(1, 1, 0)).value


def test_grid_overlaps() -> None:
    masks = [mask for _, mask in grid("predicted")], [mask for _, mask in grid("truth")]
    assert np.allclose(matching.iou_matrix(*masks), GOLDEN["grid"]["iou"])
    assert matching.union_iou(*masks) == pytest.approx(GOLDEN["grid"]["union_iou"], **CLOSE)


@pytest.mark.parametrize(
    ("mode", "name"), [(m, n) for m in ("strict", "compat") for n in GOLDEN["grid"][m]]
)
def test_grid_metrics(mode: str, name: str) -> None:
    table = metrics.STRICT if mode == "strict" else metrics.COMPAT
    assert pooled(table[name], [grid_unit()]) == pytest.approx(GOLDEN["grid"][mode][name], **CLOSE)


@pytest.mark.parametrize("case", GOLDEN["average_precision"])
def test_average_precision(case: dict[str, Any]) -> None:
    value = bootstrap.precision_over_recall(np.array(case["hits"]), case["truths"])
    assert value == pytest.approx(case["value"], **CLOSE)


def test_micro_and_macro_giou() -> None:
    units = []
    for overlaps in GOLDEN["giou"]["images"]:
        names = "abcdef"[: len(overlaps)]
        units.append(overlap_unit(np.diag(overlaps).tolist(), names, names))
    assert pooled(metrics.STRICT["gIoU_micro"], units) == pytest.approx(GOLDEN["giou"]["micro"])
    macro = pooled(metrics.STRICT["gIoU_macro"], units)
    assert macro == pytest.approx(GOLDEN["giou"]["macro"], **CLOSE)


def test_giou_modes() -> None:
    case = GOLDEN["giou_modes"]
    found = np.diag(case["iou"])
    answered = overlap_unit(np.hstack([found, [[0], [0]]]).tolist(), "ab", "abc")
    more = np.vstack([np.hstack([found, [[0], [0]]]), [[0, 0, 0]]])
    extra = overlap_unit(more.tolist(), "abz", "abc")
    assert pooled(metrics.STRICT["gIoU_micro"], [answered]) == pytest.approx(
        case["strict"], **CLOSE
    )
    assert pooled(metrics.COMPAT["gIoU_micro"], [answered]) == pytest.approx(case["teacher"])
    assert pooled(metrics.STRICT["mIoU_cls"], [extra]) == pytest.approx(case["end2end_x"])


def test_recall_stops_early_only_in_compat() -> None:
    case = GOLDEN["recall"]
    iou, similarity = np.array(case["iou"]).T, np.array(case["similarity"]).T
    truths = iou.shape[1]
    assert metrics.strict_hits(iou, similarity) / truths == case["strict"]
    assert metrics.compat_hits(iou, similarity) / truths == case["compat"]


@pytest.mark.parametrize("case", GOLDEN["word_overlap"])
def test_word_overlap(case: dict[str, Any]) -> None:
    left, right = case["left"], case["right"]
    assert metrics.word_overlap(left, right) == pytest.approx(case["value"], **CLOSE)
    value = metrics.word_overlap(normalise(left), normalise(right))
    assert value == pytest.approx(case["normalised"], **CLOSE)


def test_set_scores() -> None:
    case = GOLDEN["sets"]
    scores = structure.compare_sets(frozenset(case["predicted"]), frozenset(case["truth"]))
    for name in ("precision", "recall", "f1", "jaccard"):
        assert getattr(scores, name) == pytest.approx(case[name], **CLOSE)


def test_status_accuracy() -> None:
    case = GOLDEN["status"]
    mask = np.ones((2, 2), dtype=bool)
    predicted, truth = (
        [PartMask(image, RegionKind(kind), label, mask) for image, label, kind in case[which]]
        for which in ("predicted", "truth")
    )
    tallies = structure.part_tallies(as_regions(predicted), as_regions(truth))
    for name in ("part_precision", "part_recall", "status_accuracy"):
        part, whole = tallies[name]
        assert part / whole == pytest.approx(case[name], **CLOSE)
