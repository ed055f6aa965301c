"""Every metric against values worked out by hand (tests/golden/metrics.json)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from calico_model.evaluation import (
    annotator,
    bootstrap,
    calibration,
    choices,
    matching,
    metrics,
    partonomy,
    structure,
)
from calico_model.evaluation.regions import CroppedRegion, as_regions, cut
from calico_model.evaluation.units import Unit, build_unit
from calico_model.types import Likelihood, PartMask, RegionKind
from calico_model.vocabulary import normalise
from research.simulation.curve import sum_up

FOLDER = Path(__file__).parents[2] / "golden"
GOLDEN: dict[str, Any] = json.loads((FOLDER / "metrics.json").read_text())
CLOSE = {"abs": 5e-5}
COVERED: set[str] = set()

_Test = TypeVar("_Test", bound=Callable[..., None])


def covers(case: str) -> Callable[[_Test], _Test]:
    """Marks a test as the one that holds a golden case."""

    def mark(test: _Test) -> _Test:
        COVERED.add(case)
        return test

    return mark


def test_every_case_is_covered_and_described() -> None:
    described = re.findall(r"^\| `(\w+)` \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert COVERED == GOLDEN.keys() == set(described)
    assert len(described) == 13


def box(side: int, rows_columns: list[int]) -> np.ndarray:
    mask = np.zeros((side, side), dtype=bool)
    top, bottom, left, right = rows_columns
    mask[top:bottom, left:right] = True
    return mask


def grid(which: str) -> list[tuple[str, np.ndarray]]:
    case = GOLDEN["grid"]
    return [(name, box(case["side"], where)) for name, where in case[which].items()]


def grid_unit() -> Unit:
    return build_unit(0, [(n, m, 1.0) for n, m in grid("predicted")], grid("truth"))


def overlap_unit(iou: list[list[float]], predicted: str, truth: str) -> Unit:
    """A unit whose IoU is given: every region has 1000 pixels, one letter is one label."""
    given = np.array(iou, dtype=float).reshape(len(predicted), len(truth))
    shared = 2000 * given / (1 + given)
    ours, theirs = np.full(len(predicted), 1000.0), np.full(len(truth), 1000.0)
    return Unit(0, shared, ours, theirs, tuple(predicted), tuple(truth), ours / 1000)


def strip(label: str, row: int, length: int) -> CroppedRegion:
    """A part of some pixels in a row of its own."""
    mask = np.zeros((10, 100), dtype=bool)
    mask[row, :length] = True
    return CroppedRegion(0, RegionKind.COMMON_PART, label, cut(mask))


def pooled(tally: Any, units: list[Unit]) -> float:
    parts = [(0, *tally(unit)) for unit in units]
    return bootstrap.ratio(parts, bootstrap.draw_counts(1, 1, 0)).value


@covers("grid")
def test_grid_overlaps() -> None:
    masks = [mask for _, mask in grid("predicted")], [mask for _, mask in grid("truth")]
    assert np.allclose(matching.iou_matrix(*masks), GOLDEN["grid"]["iou"])


@covers("grid")
@pytest.mark.parametrize(
    ("mode", "name"), [(m, n) for m in ("strict", "compat") for n in GOLDEN["grid"][m]]
)
def test_grid_metrics(mode: str, name: str) -> None:
    table = metrics.STRICT if mode == "strict" else metrics.COMPAT
    assert pooled(table[name], [grid_unit()]) == pytest.approx(GOLDEN["grid"][mode][name], **CLOSE)


@covers("average_precision")
@pytest.mark.parametrize("case", GOLDEN["average_precision"])
def test_average_precision(case: dict[str, Any]) -> None:
    value = bootstrap.precision_over_recall(np.array(case["hits"]), case["truths"])
    assert value == pytest.approx(case["value"], **CLOSE)


@covers("giou")
def test_micro_and_macro_giou() -> None:
    units = []
    for overlaps in GOLDEN["giou"]["images"]:
        names = "abcdef"[: len(overlaps)]
        units.append(overlap_unit(np.diag(overlaps).tolist(), names, names))
    assert pooled(metrics.STRICT["gIoU_micro"], units) == pytest.approx(GOLDEN["giou"]["micro"])
    macro = pooled(metrics.STRICT["gIoU_macro"], units)
    assert macro == pytest.approx(GOLDEN["giou"]["macro"], **CLOSE)
    terms = [
        partonomy.mask_tallies([partonomy.Term(iou, 1.0, iou) for iou in overlaps])
        for overlaps in GOLDEN["giou"]["images"]
    ]
    for name, expected in (("micro_gIoU", "micro"), ("macro_gIoU", "macro")):
        entries = [(0, *tallies[name]) for tallies in terms]
        value = bootstrap.ratio(entries, bootstrap.draw_counts(1, 1, 0)).value
        assert value == pytest.approx(GOLDEN["giou"][expected], **CLOSE)


@covers("ciou")
def test_ciou_weighs_by_pixels_and_giou_by_masks() -> None:
    case = GOLDEN["ciou"]
    both = zip(case["shared"], case["united"], strict=True)
    terms = [partonomy.Term(shared, united, shared / united) for shared, united in both]
    tallies = partonomy.mask_tallies(terms)
    for name, expected in (("cIoU", "ciou"), ("micro_gIoU", "giou"), ("macro_gIoU", "giou")):
        part, whole = tallies[name]
        assert part / whole == pytest.approx(case[expected], **CLOSE)


@covers("giou_modes")
@pytest.mark.parametrize("mode", ["teacher", "strict", "end2end", "end2end_x"])
def test_giou_modes(mode: str) -> None:
    case = GOLDEN["giou_modes"]
    truth = [strip(f"part {row}", row, 100) for row in range(len(case["iou"]) + case["missing"])]
    answered = [strip(f"part {row}", row, round(100 * iou)) for row, iou in enumerate(case["iou"])]
    extra = [strip(f"extra {row}", 9, 20) for row in range(case["extra"])]
    predicted = answered + extra if mode.startswith("end2end") else answered
    part, whole = partonomy.mask_tallies(partonomy.judge(mode, predicted, truth))["micro_gIoU"]
    # end2end is strict for the model's own answer: what is too much costs nothing yet.
    assert part / whole == pytest.approx(case["strict" if mode == "end2end" else mode], **CLOSE)


@covers("giou_modes")
def test_giou_modes_of_subtask_metrics() -> None:
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


@covers("recall")
def test_recall_stops_early_only_in_compat() -> None:
    case = GOLDEN["recall"]
    iou, similarity = np.array(case["iou"]).T, np.array(case["similarity"]).T
    truths = iou.shape[1]
    assert metrics.strict_hits(iou, similarity) / truths == case["strict"]
    assert metrics.compat_hits(iou, similarity) / truths == case["compat"]


@covers("word_overlap")
@pytest.mark.parametrize("case", GOLDEN["word_overlap"])
def test_word_overlap(case: dict[str, Any]) -> None:
    left, right = case["left"], case["right"]
    assert metrics.word_overlap(left, right) == pytest.approx(case["value"], **CLOSE)
    value = metrics.word_overlap(normalise(left), normalise(right))
    assert value == pytest.approx(case["normalised"], **CLOSE)


@covers("sets")
def test_set_scores() -> None:
    case = GOLDEN["sets"]
    scores = structure.compare_sets(frozenset(case["predicted"]), frozenset(case["truth"]))
    for name in ("precision", "recall", "f1", "jaccard"):
        assert getattr(scores, name) == pytest.approx(case[name], **CLOSE)


@covers("sets")
def test_set_scores_of_part_questions() -> None:
    case = GOLDEN["sets"]
    predicted, truth = (
        [strip(label, row, 5) for row, label in enumerate(case[which])]
        for which in ("predicted", "truth")
    )
    tallies = partonomy.text_tallies(predicted, truth)
    for name in ("precision", "recall", "f1", "jaccard"):
        assert tallies[f"item_{name}"][0] == pytest.approx(case[name], **CLOSE)
    for name in ("precision", "recall"):
        part, whole = tallies[f"part_{name}"]
        assert part / whole == pytest.approx(case[name], **CLOSE)
    assert tallies["exact"] == (0.0, 1.0)


@covers("status")
def test_status_accuracy() -> None:
    case = GOLDEN["status"]
    mask = np.ones((2, 2), dtype=bool)
    predicted, truth = (
        as_regions(
            [PartMask(image, RegionKind(kind), label, mask) for image, label, kind in case[which]]
        )
        for which in ("predicted", "truth")
    )
    tallies = structure.part_tallies(predicted, truth)
    for name in ("part_precision", "part_recall", "status_accuracy"):
        part, whole = tallies[name]
        assert part / whole == pytest.approx(case[name], **CLOSE)


@covers("choice")
def test_choice_likelihood() -> None:
    case = GOLDEN["choice"]
    names = ("first", "second")
    likelihoods = [Likelihood((), tuple(case[name])) for name in names]
    sums = [likelihood.sum() for likelihood in likelihoods]
    assert sums == pytest.approx(case["sums"], **CLOSE)
    for reading in ("sum", "mean"):
        assert names[choices.choose(likelihoods, reading)] == case[reading]


@covers("calibration")
def test_calibration() -> None:
    case = GOLDEN["calibration"]
    values = calibration.calibrate(np.array(case["scores"]), np.array(case["right"]))
    for name in ("ECE", "Brier", "AUROC", "AURC"):
        assert values[name] == pytest.approx(case[name], **CLOSE)


@covers("clicks")
@pytest.mark.parametrize("target", [80, 85, 90, 95])
def test_number_of_clicks(target: int) -> None:
    case = GOLDEN["clicks"]
    untouched = 0.0
    assert annotator.clicks_to(target / 100, [untouched, *case["after"]]) == case[str(target)]


@covers("adaptation")
def test_adaptation_curve() -> None:
    case = GOLDEN["adaptation"]
    summary = sum_up(case["curve"], case["curve"])
    assert summary.gain == pytest.approx(case["gain"], **CLOSE)
    assert summary.area == pytest.approx(case["area"], **CLOSE)
    assert summary.forgetting == 0.0
