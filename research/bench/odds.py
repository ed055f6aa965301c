"""`calico bench odds`: fits the weights by which detections on photographs are likely right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from backend.cli.options import DeviceOption, WeightsOption
from backend.cli.progress import training_bar
from backend.cli.tables import print_fitted
from calico_model.errors import InvalidConfigError
from calico_model.evaluation.calibration import calibrate
from calico_model.evaluation.matching import iou_matrix
from calico_model.evaluation.metrics import IOU_THRESHOLD
from calico_model.inference.confidence import fit_logistic
from calico_model.inference.detection_odds import (
    OBJECT_ODDS,
    PART_ODDS,
    DetectionEvidence,
    OddsWeights,
)
from calico_model.types import LabeledGroup, RegionKind
from calico_model.vocabulary import normalise
from research.bench.photos import NextOption, SetsOption, find_sets, open_pairs
from research.bench.review import learning_loop
from research.simulation.in_process import InProcessLoop

_Odds = tuple[OddsWeights, OddsWeights]
"""Of parts, and of objects."""
_NAMES = tuple(field.name for field in fields(OddsWeights))
_ONLY_PARTS = ("peak", "seen", "names")
_FIXED = 1e9  # precision of a weight that is not fitted


@dataclass(frozen=True)
class JudgedDetection:
    """A detection with the judgement of the truth.

    Attributes:
        evidence: that speaks for it.
        shift: of its adapter, see `DenseRows.shift`.
        is_right: whether its name is right and the IoU at least 0.5.
    """

    evidence: DetectionEvidence
    shift: float
    is_right: bool

    def log_odds(self, odds: _Odds) -> float:
        """Returns its log odds of being right."""
        return odds[self.evidence.is_object].log_odds(self.evidence) + self.shift


def bench_odds(
    sets: SetsOption,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Only the set of this name; repeatable.")
    ] = None,
    corrections: Annotated[int, typer.Option(min=2, help="Corrected pairs to learn from.")] = 20,
    next_groups: NextOption = 100,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Training, in seconds of processor time.")
    ] = 30.0,
    seeds: Annotated[int, typer.Option(min=1, help="Draws of pairs from every set.")] = 1,
    weights: WeightsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Fit the odds that a detection on photographs is right, on sets of labeled photographs.

    Learns from half of the corrected pairs and from all, in this process, and compares what both
    versions detect in later pairs with the truth. A logistic regression weighs the evidence;
    every set has the same weight.

    Fit the weights of this release again (calico_model/inference/detection_odds.py):
    calico bench odds --sets photographs --seeds 2

    The last line of the output is JSON: parts and objects (fitted weights), and by set log_loss
    and ece (points) with the weights of this release (now), with weights fitted on all sets
    (fitted) and on the other sets (others; null where there is only one).
    """
    folders = find_sets(sets, only=only)
    judged: dict[str, list[JudgedDetection]] = {}
    with training_bar("opening sets") as show:
        for folder in folders:
            found = judged.setdefault(folder.name, [])
            for seed in range(seeds):
                groups = open_pairs(folder, seed=seed)
                learned = min(corrections, 2 * len(groups) // 3)
                if learned < 2:
                    raise InvalidConfigError(f"{folder}: expected 3 pairs or more")
                coming = groups[learned : learned + min(next_groups, len(groups) - learned)]
                _, loop = learning_loop(weights, device, seconds, folder.name, show)
                found += _judge_versions(loop, groups[:learned], coming, folder.name, show)
    fitted = fit_odds(judged)
    figures = {name: _figures_of(name, judged, fitted) for name in judged}
    print_fitted(_table(figures))
    named = {"parts": _rounded(fitted[0]), "objects": _rounded(fitted[1])}
    typer.echo(json.dumps({**named, "sets": figures}))


def _judge_versions(
    loop: InProcessLoop,
    corrected: Sequence[LabeledGroup],
    coming: Sequence[LabeledGroup],
    name: str,
    show: Any,
) -> list[JudgedDetection]:
    """Detections of a version of half of the pairs, in the other half, and of a version of all."""
    found = []
    half = (len(corrected) + 1) // 2
    for portion, later in ((corrected[:half], corrected[half:]), (corrected[half:], coming)):
        for labeled in portion:
            loop.correct(labeled, loop.predict(labeled.group))
        loop.learn()
        for done, labeled in enumerate(later, start=1):
            found += judge_detections(loop, labeled)
            show(f"{name}: detecting", done, len(later))
    return found


def judge_detections(loop: InProcessLoop, labeled: LabeledGroup) -> list[JudgedDetection]:
    """Returns what the newest version detects in a group, each with the judgement of the truth."""
    judged = []
    for detection, evidence, shift in loop.detect(labeled.group):
        truths = [
            part.mask
            for part in labeled.parts
            if part.image_index == detection.image
            and (part.kind is RegionKind.COMMON_OBJECT) == detection.is_object
            and normalise(part.label) == normalise(detection.label)
        ]
        mask = detection.mask
        is_right = mask is not None and bool(
            truths and iou_matrix([mask], truths).max() >= IOU_THRESHOLD
        )
        judged.append(JudgedDetection(evidence, shift, is_right))
    return judged


def fit_odds(judged: Mapping[str, Sequence[JudgedDetection]]) -> _Odds:
    """Fits the weights of parts and of objects; every set has the same weight.

    Args:
        judged: detections by set.
    """
    return _fit_kind(judged, is_object=False), _fit_kind(judged, is_object=True)


def _fit_kind(judged: Mapping[str, Sequence[JudgedDetection]], *, is_object: bool) -> OddsWeights:
    by_set = [
        [one for one in found if one.evidence.is_object == is_object] for found in judged.values()
    ]
    rows = [one for found in by_set for one in found]
    filled = sum(bool(found) for found in by_set)
    weight = [len(rows) / filled / len(found) for found in by_set for _ in found]
    # The adapter's shift is a last factor, whose weight is 1.
    mean = np.array([*(1.0 if name in ("overlap", "certainty") else 0.0 for name in _NAMES), 1.0])
    fixed = [is_object and name in _ONLY_PARTS for name in _NAMES]
    precision = [
        _FIXED if is_fixed else 0.01 if name == "shift" else 1.0
        for name, is_fixed in zip(_NAMES, fixed, strict=True)
    ]
    fitted = fit_logistic(
        np.array([(*one.evidence.factors, one.shift) for one in rows]).reshape(-1, len(mean)),
        np.array([one.is_right for one in rows], np.float64),
        mean=mean,
        precision=np.array([*precision, _FIXED]),
        row_weight=np.array(weight),
    )
    return OddsWeights(*(float(value) for value in fitted[:-1]))


def _figures_of(
    name: str, judged: Mapping[str, Sequence[JudgedDetection]], fitted: _Odds
) -> dict[str, dict[str, float] | None]:
    others = {other: found for other, found in judged.items() if other != name}
    return {
        "now": odds_figures(judged[name], (PART_ODDS, OBJECT_ODDS)),
        "fitted": odds_figures(judged[name], fitted),
        "others": odds_figures(judged[name], fit_odds(others)) if others else None,
    }


def odds_figures(judged: Sequence[JudgedDetection], odds: _Odds) -> dict[str, float]:
    """Returns how well weights say what is right: of all the log loss, of those shown the ECE.

    Args:
        judged: detections of a set, at least one.
        odds: weights of parts and of objects.
    """
    from calico_model.inference.dense_answers import LEAST_SHOWN

    log_odds: NDArray[np.float64] = np.array([one.log_odds(odds) for one in judged])
    right = np.array([one.is_right for one in judged], np.bool_)
    chance = 1 / (1 + np.exp(-log_odds))
    shown = chance >= LEAST_SHOWN
    ece = calibrate(chance[shown], right[shown])["ECE"] if shown.any() else 0.0
    loss = np.logaddexp(0.0, np.where(right, -log_odds, log_odds)).mean()
    return {"log_loss": round(float(loss), 4), "ece": round(100 * ece, 1)}


def _rounded(weights: OddsWeights) -> dict[str, float]:
    return {name: round(value, 2) for name, value in asdict(weights).items()}


def _table(figures: Mapping[str, Mapping[str, dict[str, float] | None]]) -> Table:
    table = Table(title="Odds of detections", title_justify="left")
    table.add_column("set", overflow="fold")
    columns = [
        (key, figure) for figure in ("log_loss", "ece") for key in ("now", "fitted", "others")
    ]
    for key, figure in columns:
        table.add_column(f"{figure.replace('_', ' ')}\n{key}", justify="right")
    for name, row in figures.items():
        cells = [row[key] for key, _ in columns]
        table.add_row(
            name,
            *(
                "-" if cell is None else f"{cell[figure]:g}"
                for cell, (_, figure) in zip(cells, columns, strict=True)
            ),
        )
    return table
