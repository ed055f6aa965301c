"""`calico bench review`: whether scores say which regions on photographs are wrong, set by set."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.table import Table

from backend.cli.options import DeviceOption, WeightsOption
from backend.cli.progress import training_bar
from backend.cli.tables import print_fitted
from calico_model.errors import InvalidConfigError
from calico_model.evaluation.calibration import calibrate
from calico_model.evaluation.matching import iou_matrix
from calico_model.evaluation.metrics import IOU_THRESHOLD
from calico_model.inference.confidence import fit_calibration
from calico_model.types import GroupPrediction, LabeledGroup, RegionKind
from calico_model.vocabulary import normalise
from research.bench.photos import NextOption, SetsOption, find_sets, open_pairs

if TYPE_CHECKING:
    from calico_model.predictor import Predictor
    from research.simulation.in_process import InProcessLoop


@dataclass(frozen=True)
class ScoredRegion:
    """A predicted region.

    Attributes:
        score: as shown, in [0, 1].
        iou: with the true region of its name in its image, 0 without one.
        label: its name.
        is_object: whether it is an object or a part.
    """

    score: float
    iou: float
    label: str
    is_object: bool

    @property
    def is_right(self) -> bool:
        """Whether the name is right and the IoU is at least 0.5."""
        return self.iou >= IOU_THRESHOLD


def bench_review(
    sets: SetsOption,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Only the set of this name; repeatable.")
    ] = None,
    incomplete: Annotated[
        list[str] | None,
        typer.Option("--incomplete", help="A set whose lists of parts are incomplete; repeatable."),
    ] = None,
    corrections: Annotated[int, typer.Option(min=1, help="Corrected pairs to learn from.")] = 20,
    next_groups: NextOption = 100,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Training, in seconds of processor time.")
    ] = 30.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the pairs.")] = 0,
    regions: Annotated[
        Path | None,
        typer.Option(help="Also write score and IoU of every region there.", metavar="FILE"),
    ] = None,
    weights: WeightsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Learn from corrected photographs and compare scores with the truth of the next ones.

    Learns and predicts in this process, without a server: a first version from half of the pairs,
    a second one from all. Scores are calibrated, as in a project, by what became of the regions
    of the first version.

    Where the lists of parts are incomplete (--incomplete), a predicted part whose name has no
    outline in its image may well be there, so it is not counted. It counts as wrong if most of it
    lies in the outlines of other parts.

    Example: calico bench review --sets photographs

    The last line of the output is JSON: by set and over all sets together, rank_correlation of
    score and IoU (Spearman), ece (expected calibration error in points, 10 bins), wrong_lowest and
    wrong_highest (share of wrong regions among the lowest and the highest scored fifth) and
    times_wrong (their quotient); by set also regions_before and highest_before, the number of
    regions before any correction and their highest score.
    """
    folders = find_sets(sets, only=only, incomplete=incomplete)
    if regions is not None and not regions.parent.is_dir():
        raise InvalidConfigError(f"--regions: expected a file in a folder that is there: {regions}")
    figures: dict[str, dict[str, float | None]] = {}
    everything: dict[str, list[ScoredRegion]] = {}
    with training_bar("opening sets") as show:
        for folder in folders:
            groups = open_pairs(folder, seed=seed)
            learned = min(corrections, 2 * len(groups) // 3)
            coming = list(groups[: learned + min(next_groups, len(groups) - learned)])
            before, after = _learn_and_predict(
                coming[:learned],
                coming[learned:],
                seconds,
                weights,
                device,
                folder.name,
                show,
                is_complete=folder.name not in (incomplete or ()),
            )
            everything[folder.name] = after
            figures[folder.name] = review_figures(after) | {
                "corrected": float(learned),
                "regions_before": float(len(before)),
                "highest_before": max((one.score for one in before), default=0.0),
            }
            typer.echo(f"{folder.name}: {json.dumps(figures[folder.name])}", err=True)
            if regions is not None:
                _write(regions, everything)
    together = review_figures([one for found in everything.values() for one in found])
    print_fitted(_table(figures | {"together": together}))
    typer.echo(json.dumps({"sets": figures, "together": together}))


def review_figures(found: Sequence[ScoredRegion]) -> dict[str, float | None]:
    """Returns how well scores order and predict what is right; None where nothing can be said.

    Args:
        found: regions of a set.
    """
    score = np.array([one.score for one in found], np.float64)
    iou = np.array([one.iou for one in found], np.float64)
    right = np.array([one.is_right for one in found], np.bool_)
    fifth = len(found) // 5
    order = np.argsort(score, kind="stable")
    lowest = float(1 - right[order[:fifth]].mean()) if fifth else None
    highest = float(1 - right[order[-fifth:]].mean()) if fifth else None
    times = None if not lowest or highest is None else lowest / max(highest, 0.5 / fifth)
    return {
        "regions": float(len(found)),
        "right": _rounded(float(right.mean()) if len(found) else None),
        "rank_correlation": _rounded(rank_correlation(score, iou)),
        "ece": _rounded(100 * calibrate(score, right)["ECE"] if len(found) else None, 1),
        "wrong_lowest": _rounded(lowest),
        "wrong_highest": _rounded(highest),
        "times_wrong": _rounded(times, 1),
    }


def rank_correlation(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float | None:
    """Spearman's correlation of two (N,) arrays, ties at their mean rank; None if one is flat."""
    if len(first) < 2:
        return None
    ranks = np.stack([_ranks(first), _ranks(second)])
    if not ranks.std(1).all():
        return None
    return float(np.corrcoef(ranks)[0, 1])


def _ranks(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: np.ndarray[Any, Any] = ((ends - counts) + ends - 1) / 2
    ranks: np.ndarray[Any, Any] = means[place]
    return ranks


def learning_loop(
    weights: Path | None, device: str, seconds: float, name: str, show: Any
) -> tuple[Predictor, InProcessLoop]:
    """Returns a model, and what learns with it in this process from corrections of one set.

    Args:
        weights: model folder; None is the shipped model.
        device: of the model.
        seconds: of processor time for an update.
        name: of the set, for the progress.
        show: takes what is done, steps done and steps in all.
    """
    # torch takes seconds to import: `--help` and a wrong argument must not wait for it.
    from calico_model.predictor import DEFAULT_WEIGHTS, load_predictor
    from calico_model.training.online.update import UpdatePlan
    from research.simulation.command import base_groups
    from research.simulation.in_process import InProcessLoop

    rehearsed, _ = base_groups(None, replay=8, measured=1)
    # One thread, as the trainer has: threads that wait for each other use up the budget.
    predictor = load_predictor(weights or DEFAULT_WEIGHTS, device=device, threads=1)
    loop = InProcessLoop(
        predictor,
        rehearsed,
        UpdatePlan(seconds=seconds),
        clock=time.process_time,
        on_progress=lambda progress: show(f"{name}: learning", progress.step, progress.steps),
    )
    return predictor, loop


def _learn_and_predict(
    corrected: Sequence[LabeledGroup],
    coming: Sequence[LabeledGroup],
    seconds: float,
    weights: Path | None,
    device: str,
    name: str,
    show: Any,
    *,
    is_complete: bool,
) -> tuple[list[ScoredRegion], list[ScoredRegion]]:
    """Returns the regions of the coming groups before and after learning from the corrected."""
    _, loop = learning_loop(weights, device, seconds, name, show)

    def judged_of(prediction: GroupPrediction, labeled: LabeledGroup) -> list[ScoredRegion]:
        return judge(prediction, labeled, is_complete=is_complete)

    before = [one for labeled in coming for one in judged_of(loop.predict(labeled.group), labeled)]
    # As a project learns: a first version, whose regions annotators judge, and a second one.
    judged: list[ScoredRegion] = []
    first = corrected[: (len(corrected) + 1) // 2]
    for portion in (first, corrected[len(first) :]):
        for labeled in portion:
            prediction = loop.predict(labeled.group)
            judged += judged_of(prediction, labeled)
            loop.correct(labeled, prediction)
        show(f"{name}: learning from {len(portion)} pairs", 1, 1)
        loop.learn()
    calibration = fit_calibration(
        np.array([one.score for one in judged]), np.array([one.is_right for one in judged], bool)
    )
    after: list[ScoredRegion] = []
    for done, labeled in enumerate(coming, start=1):
        after += judged_of(loop.predict(labeled.group), labeled)
        show(f"{name}: predicting", done, len(coming))
    return before, [replace(one, score=calibration.score(one.score)) for one in after]


def judge(
    prediction: GroupPrediction, labeled: LabeledGroup, *, is_complete: bool = True
) -> list[ScoredRegion]:
    """Returns every predicted region with its IoU; a part may be said to be common or unique.

    Args:
        prediction: of the group.
        labeled: the group with its truth.
        is_complete: whether all parts are outlined. Else a part is left out whose name has no
            outline in its image, and of which less than half is in outlines of other parts.
    """
    found = []
    for part in prediction.parts:
        is_object = part.kind is RegionKind.COMMON_OBJECT
        here = [
            truth
            for truth in labeled.parts
            if truth.image_index == part.image_index
            and (truth.kind is RegionKind.COMMON_OBJECT) == is_object
        ]
        truths = [one.mask for one in here if normalise(one.label) == normalise(part.label)]
        if not (truths or is_complete or is_object):
            outlined = np.logical_or.reduce([one.mask for one in here], axis=0)
            if 2 * np.count_nonzero(part.mask & outlined) < np.count_nonzero(part.mask):
                continue
        iou = float(iou_matrix([part.mask], truths).max()) if truths else 0.0
        found.append(ScoredRegion(float(part.score), iou, part.label, is_object))
    return found


def _write(target: Path, everything: dict[str, list[ScoredRegion]]) -> None:
    rows = {
        name: [[one.score, one.iou, one.label, one.is_object] for one in found]
        for name, found in everything.items()
    }
    target.write_text(json.dumps(rows) + "\n", "utf-8")


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)


def _table(figures: dict[str, dict[str, float | None]]) -> Table:
    table = Table(title="Scores and truth", title_justify="left")
    table.add_column("set", overflow="fold")
    names = {
        "regions": "regions",
        "right": "right",
        "rank_correlation": "rank\ncorr.",
        "ece": "ECE",
        "wrong_lowest": "wrong in\nlowest\nfifth",
        "wrong_highest": "wrong in\nhighest\nfifth",
        "times_wrong": "times",
    }
    for name in names.values():
        table.add_column(name, justify="right")
    for name, row in figures.items():
        values = ["-" if row[key] is None else f"{row[key]:g}" for key in names]
        table.add_row(name, *values)
    return table
