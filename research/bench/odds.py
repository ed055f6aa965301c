"""`calico bench odds`: fits the weights by which detections on photographs are likely right."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, TypeVar

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from backend.cli.options import DeviceOption, WeightsOption
from backend.cli.progress import training_bar
from backend.cli.tables import print_fitted
from calico_model.errors import InvalidConfigError
from calico_model.inference.confidence import fit_logistic
from calico_model.inference.detection_odds import (
    OBJECT_ODDS,
    PART_ODDS,
    DetectionEvidence,
    EdgeWeights,
    OddsWeights,
)
from calico_model.types import LabeledGroup
from research.bench import edge_odds
from research.bench.edge_odds import JudgedRegion, fit_edges, judge_regions
from research.bench.outcome_fit import judged_right, outcome_figures, set_weights
from research.bench.photos import NextOption, SetsOption, find_sets, open_pairs
from research.bench.review import learning_loop
from research.simulation.in_process import InProcessLoop

_Odds = tuple[OddsWeights, OddsWeights]
"""Of parts, and of objects."""
_Figures = dict[str, dict[str, dict[str, float] | None]]
_Judged = TypeVar("_Judged")
_Fitted = TypeVar("_Fitted")
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
    every set has the same weight. The same for what MobileSAM says about the regions that the
    weights of this release show.

    Fit the weights of this release again (calico_model/inference/detection_odds.py):
    calico bench odds --sets photographs --seeds 2

    The last line of the output is JSON: parts, objects, part_edges and object_edges (fitted
    weights), and, by set, log_loss and ece (points) with the weights of this release (now), with
    weights fitted on all sets (fitted) and on the other sets (others; null where there is only
    one): of all detections in sets, of shown regions after MobileSAM in edges.
    """
    folders = find_sets(sets, only=only)
    judged: dict[str, list[JudgedDetection]] = {}
    shown: dict[str, list[JudgedRegion]] = {}
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
                regions = shown.setdefault(folder.name, [])
                for labeled in _versions(loop, groups[:learned], coming, folder.name, show):
                    found += judge_detections(loop, labeled)
                    regions += judge_regions(loop, labeled)
    fitted = fit_odds(judged)
    figures = _figures(judged, (PART_ODDS, OBJECT_ODDS), fitted, fit_odds, odds_figures)
    named = {"parts": _rounded(fitted[0]), "objects": _rounded(fitted[1])}
    edges: _Figures = {}
    if shown := {name: regions for name, regions in shown.items() if regions}:
        fitted_edges = fit_edges(shown)
        edges = _figures(shown, edge_odds.NOW, fitted_edges, fit_edges, edge_odds.edge_figures)
        named |= {
            "part_edges": _rounded(fitted_edges[0]),
            "object_edges": _rounded(fitted_edges[1]),
        }
    print_fitted(_table("Odds of detections", figures))
    print_fitted(_table("Odds of shown regions after MobileSAM", edges))
    typer.echo(json.dumps({**named, "sets": figures, "edges": edges}))


def _versions(
    loop: InProcessLoop,
    corrected: Sequence[LabeledGroup],
    coming: Sequence[LabeledGroup],
    name: str,
    show: Any,
) -> Iterator[LabeledGroup]:
    """Learns from half of the pairs, then from all; yields the later pairs of both versions."""
    half = (len(corrected) + 1) // 2
    for portion, later in ((corrected[:half], corrected[half:]), (corrected[half:], coming)):
        for labeled in portion:
            loop.correct(labeled, loop.predict(labeled.group))
        loop.learn()
        for done, labeled in enumerate(later, start=1):
            show(f"{name}: detecting", done, len(later))
            yield labeled


def judge_detections(loop: InProcessLoop, labeled: LabeledGroup) -> list[JudgedDetection]:
    """Returns what the newest version detects in a group, each with the judgement of the truth."""
    judged = []
    for detection, evidence, shift in loop.detect(labeled.group):
        is_right = detection.mask is not None and judged_right(
            labeled,
            detection.image,
            detection.label,
            detection.mask,
            is_object=detection.is_object,
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
        row_weight=set_weights(by_set),
    )
    return OddsWeights(*(float(value) for value in fitted[:-1]))


def _figures(
    judged: Mapping[str, Sequence[_Judged]],
    now: _Fitted,
    fitted: _Fitted,
    fit: Callable[[Mapping[str, Sequence[_Judged]]], _Fitted],
    measure: Callable[[Sequence[_Judged], _Fitted], dict[str, float]],
) -> _Figures:
    """Figures by set: with the weights of this release, fitted on all sets, and on the others."""
    figures: _Figures = {}
    for name, found in judged.items():
        others = {other: rows for other, rows in judged.items() if other != name}
        figures[name] = {
            "now": measure(found, now),
            "fitted": measure(found, fitted),
            "others": measure(found, fit(others)) if others else None,
        }
    return figures


def odds_figures(judged: Sequence[JudgedDetection], odds: _Odds) -> dict[str, float]:
    """Returns how well weights say what is right: of all the log loss, of those shown the ECE.

    Args:
        judged: detections of a set, at least one.
        odds: weights of parts and of objects.
    """
    from calico_model.inference.dense_answers import LEAST_SHOWN

    log_odds: NDArray[np.float64] = np.array([one.log_odds(odds) for one in judged])
    right = np.array([one.is_right for one in judged], np.bool_)
    return outcome_figures(log_odds, right, LEAST_SHOWN)


def _rounded(weights: OddsWeights | EdgeWeights) -> dict[str, float]:
    return {name: round(value, 2) for name, value in asdict(weights).items()}


def _table(title: str, figures: _Figures) -> Table:
    table = Table(title=title, title_justify="left")
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
