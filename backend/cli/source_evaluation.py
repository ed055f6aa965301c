"""`calico evaluate --sources`: each source alone, all together, and who is believed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence

import typer
from rich.table import Table

from backend.cli.progress import progress_bar
from backend.cli.tables import print_fitted
from calico_model.errors import InvalidConfigError
from calico_model.evaluation.source_trial import SourceTrial, try_sources
from calico_model.evaluation.stand_in_sources import Fault, StandInSource, Truth, read_truth
from calico_model.types import LabeledGroup

STAND_INS = "stand-ins"


def evaluate_sources(
    text: str, labeled: Sequence[LabeledGroup], *, corrected: int, seed: int
) -> None:
    """Measures the named sources on labeled groups and prints a table; the last line is JSON.

    Args:
        text: names, separated by commas; "stand-ins" for all four stand-ins.
        labeled: more than `corrected` groups.
        corrected: number of groups that teach.
        seed: of the stand-ins' faults.

    Raises:
        InvalidConfigError: an unknown name, or too few groups.
    """
    names = _names(text)
    with progress_bar("Reading groups", len(labeled)) as advance_to:
        truth = read_truth(_counted(labeled, advance_to))
    with progress_bar("Asking sources", len(labeled)) as advance_to:
        trial = try_sources(
            labeled,
            _open(names, truth, seed),
            truth.labels,
            corrected=corrected,
            on_group=advance_to,
        )
    print_fitted(_table(trial))
    has_all = set(Fault) <= set(names)
    ordered = len(trial.ordered_labels())
    if has_all:
        share = 100.0 * ordered / max(1, len(trial.labels))
        typer.echo(
            f"Trust puts exact before shifted before the other two for {ordered} of "
            f"{len(trial.labels)} labels ({share:.1f} %)."
        )
    typer.echo(f"All together are {_gap(trial.lost)} the best single source.")
    result = {one.name: _figures(one.names_pq, one.clicks_iou) for one in trial.sources}
    summary: dict[str, object] = {"labels": len(trial.labels), "lost": round(trial.lost, 2)}
    if has_all:
        summary["ordered"] = ordered
    typer.echo(json.dumps({"sources": result} | summary))


def _names(text: str) -> tuple[str, ...]:
    names: list[str] = []
    for name in (one.strip() for one in text.split(",")):
        names += list(Fault) if name == STAND_INS else [name]
    known = set(Fault)
    for name in names:
        if name not in known:
            raise InvalidConfigError(
                f"--sources: expected {STAND_INS} or some of {', '.join(Fault)}, got {name!r}"
            )
    return tuple(dict.fromkeys(names))


def _open(names: Sequence[str], truth: Truth, seed: int) -> tuple[StandInSource, ...]:
    return tuple(StandInSource(Fault(name), truth, seed) for name in names)


def _counted(
    labeled: Iterable[LabeledGroup], advance_to: Callable[[int], None]
) -> Iterator[LabeledGroup]:
    for number, group in enumerate(labeled, start=1):
        yield group
        advance_to(number)


def _table(trial: SourceTrial) -> Table:
    table = Table(
        title=f"Sources on {trial.tested} groups, after {trial.corrected} corrected groups"
    )
    table.add_column("source")
    for head in ("names, PQ", "one click, IoU", "trust", "silent labels"):
        table.add_column(head, justify="right")
    for one in trial.sources:
        is_learned = one.trust is not None
        table.add_row(
            one.name,
            _points(one.names_pq),
            _points(one.clicks_iou),
            f"{one.trust:.2f}" if is_learned else "",
            f"{one.silent} of {len(trial.labels)}" if is_learned else "",
        )
    return table


def _points(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _gap(lost: float) -> str:
    if round(lost, 1) <= 0:
        return f"{abs(lost):.1f} points above" if round(lost, 1) < 0 else "as good as"
    return f"{lost:.1f} points below"


def _figures(names_pq: float | None, clicks_iou: float | None) -> dict[str, float | None]:
    return {
        "names_pq": None if names_pq is None else round(names_pq, 2),
        "clicks_iou": None if clicks_iou is None else round(clicks_iou, 2),
    }
