"""`calico calibrate`: makes scores mean something, once per set of weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from backend.cli.options import DeviceOption, WeightsOption
from backend.cli.progress import progress_bar
from backend.cli.tables import print_fitted
from calico_model.data.opening import DrawnGroups, open_groups
from calico_model.data.synthetic import SceneSplit
from calico_model.errors import InvalidConfigError
from calico_model.evaluation.calibration import calibrate as measure
from calico_model.evaluation.calibration import judge_regions
from calico_model.inference.confidence import (
    CONFIDENCE_FILE,
    Confidence,
    EvidenceOutcome,
    fit_confidence,
    write_beside,
)
from calico_model.types import LabeledGroup

_SEED = 9001  # no other command draws its groups from this one
_SIZES = (2, 4)
_SHOWN = ("ECE", "Brier", "AUROC")


def calibrate(
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Labeled groups; drawn if not given.", metavar="PATH"),
    ] = None,
    groups: Annotated[
        int, typer.Option("--groups", min=4, help="Number of groups; half of them only measure.")
    ] = 300,
    weights: WeightsOption = None,
    device: DeviceOption = "cpu",
    write: Annotated[
        bool, typer.Option("--write/--dry-run", help="Write the result beside the weights.")
    ] = True,
) -> None:
    """Fit region scores to the chance that a region is right.

    A score weighs three things: the predicted IoU of the mask, how sure its pixels are, and how
    sure its name is. Half of the groups fit the weights, and the other half measures the result.
    The weights are written to confidence.json beside the model, and every command reads them
    there. Without that file, a score is the product of predicted IoU and name.

    Run it after a training, and again whenever the weights change. What the annotators of a
    project accept and reject then adjusts the scores further, with every learned version.

    - ECE: mean distance between score and share of right regions, in percent.
    - Brier: mean squared error.
    - AUROC: chance that a right region scores above a wrong one.

    Example: calico calibrate --weights run/model

    The last line of the output is JSON: regions, and ECE, Brier and AUROC before and after.
    """
    # torch takes seconds to import: `--help` must not wait for it.
    from calico_model.predictor import DEFAULT_WEIGHTS, load_predictor

    folder = weights or DEFAULT_WEIGHTS
    labeled: Sequence[LabeledGroup] = (
        DrawnGroups(SceneSplit.SEEN, groups, _SEED, _SIZES) if data is None else open_groups(data)
    )
    count = min(groups, len(labeled))
    predictor = load_predictor(folder, device=device)
    predictor.confidence = None
    outcomes: tuple[list[EvidenceOutcome], list[EvidenceOutcome]] = ([], [])
    with progress_bar("Judging predictions", count) as advance_to:
        for index in range(count):
            group = labeled[index]
            outcomes[index % 2].extend(judge_regions(predictor.predict(group.group), group))
            advance_to(index + 1)
    fitted, held_out = outcomes
    if not held_out:
        raise InvalidConfigError(
            f"--groups: {count} groups have no region to measure on; take more"
        )
    confidence = fit_confidence(fitted)
    before, after = _figures(None, held_out), _figures(confidence, held_out)
    print_fitted(_table(before, after))
    if write:
        write_beside(folder, confidence)
        typer.echo(f"{folder / CONFIDENCE_FILE}: written; servers take it at their next start.")
    typer.echo(
        json.dumps(
            {
                "regions": len(held_out),
                "before": _rounded(before),
                "after": _rounded(after),
                "confidence": {
                    name: round(getattr(confidence, name), 4)
                    for name in confidence.__struct_fields__
                },
            }
        )
    )


def _figures(
    confidence: Confidence | None, outcomes: Sequence[EvidenceOutcome]
) -> dict[str, float]:
    score = [
        outcome.evidence.iou * outcome.evidence.phrase
        if confidence is None
        else confidence.score(outcome.evidence)
        for outcome in outcomes
    ]
    figures = measure(np.array(score), np.array([outcome.is_right for outcome in outcomes]))
    return {name: figures[name] for name in _SHOWN}


def _table(before: dict[str, float], after: dict[str, float]) -> Table:
    table = Table(title="Scores on groups that were not fitted on")
    for name in ("", *_SHOWN):
        table.add_column(name, justify="right")
    for what, figures in (("before", before), ("after", after)):
        table.add_row(what, *(f"{100 * figures[name]:.1f}" for name in _SHOWN))
    return table


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(100 * value, 2) for name, value in figures.items()}
