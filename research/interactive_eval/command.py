"""`calico evaluate --interactive`: measures the help that a model gives while annotating."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.table import Table

from backend.cli.progress import progress_bar
from backend.cli.tables import print_fitted
from calico_model.data.opening import DrawnGroups
from calico_model.data.synthetic import SceneSplit
from calico_model.errors import InvalidConfigError
from calico_model.types import LabeledGroup

GROUPS = 60


def measure(
    weights: Path | None,
    device: str,
    groups: int | None,
    seed: int,
    only: tuple[str, ...] = (),
    given: Sequence[LabeledGroup] | None = None,
) -> None:
    """Measures every figure of help while annotating; the last line of the output is JSON.

    Args:
        weights: model folder; calico-tiny when None.
        device: torch device.
        groups: number of groups per split; None for enough to make the figures stable.
        seed: of the groups and the simulated annotators.
        only: JSON keys to measure; the others are null. () measures all.
        given: labeled groups, the first of which clicks and exemplars are measured on; None draws
            groups.
    """
    # torch takes seconds to import: `--help` and a wrong argument must not wait for it.
    from calico_model.assistant import Assistant
    from calico_model.predictor import DEFAULT_WEIGHTS, load_predictor
    from research.interactive_eval.clicks import CLICKS
    from research.interactive_eval.exemplar import EXEMPLAR
    from research.interactive_eval.figure import KEYS, Subject
    from research.interactive_eval.naming import NAMING
    from research.interactive_eval.repeated import REPEATED
    from research.interactive_eval.text import REFERRING

    for key in only:
        if key not in KEYS:
            raise InvalidConfigError(f"--only: expected one of {', '.join(KEYS)}, got {key!r}")
    predictor = load_predictor(weights or DEFAULT_WEIGHTS, device=device)

    def draw(split: SceneSplit, count: int, size: int) -> Sequence[LabeledGroup]:
        if given is None:
            return DrawnGroups(split, count, seed, (size, size))
        return given[:count] if split is SceneSplit.SEEN else ()

    all_figures = (NAMING, CLICKS, EXEMPLAR, REPEATED, REFERRING)
    figures = all_figures if given is None else (CLICKS, EXEMPLAR)
    groups = groups or GROUPS
    if given is not None:
        groups = min(groups, len(given))
    subject = Subject(predictor, Assistant(predictor), draw, groups, seed)
    values: dict[str, float | None] = dict.fromkeys(KEYS)
    table = Table("help while annotating", "measured", "goal")
    for figure in figures:
        if only and not set(only) & set(figure.keys):
            continue
        with progress_bar(figure.name, figure.steps(subject)) as advance_to:
            result = figure.measure(subject, advance_to)
        values |= result.values
        for row in result.rows:
            table.add_row(row.name, row.value, row.goal)
    print_fitted(table)
    typer.echo(json.dumps(values))
