"""`calico evaluate --sources`: each source alone, all together, and who is believed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import typer
from rich.table import Table

from backend.cli.progress import progress_bar
from backend.cli.tables import print_fitted
from backend.settings import load_settings
from calico_model.errors import InvalidConfigError
from calico_model.evaluation.source_trial import OwnSource, SourceTrial, try_sources
from calico_model.evaluation.stand_in_sources import Fault, StandInSource, read_truth
from calico_model.sources.registry import open_source, read_choices
from calico_model.sources.source import OWN_SOURCE, Source
from calico_model.types import LabeledGroup

STAND_INS = "stand-ins"


def evaluate_sources(
    text: str,
    labeled: Sequence[LabeledGroup],
    *,
    corrected: int,
    seed: int,
    open_other: Callable[[str], Source],
) -> None:
    """Measures the named sources on labeled groups and prints a table; the last line is JSON.

    Args:
        text: names, separated by commas; "stand-ins" for all four stand-ins, "calico" for CALICO.
        labeled: more than `corrected` groups.
        corrected: number of groups that teach.
        seed: of the stand-ins' faults.
        open_other: reads the weights of a source that is no stand-in, by its name.

    Raises:
        InvalidConfigError: an unknown name, or too few groups.
        CheckpointError: the weights of a source cannot be used.
    """
    names = _names(text)
    others = {name: open_other(name) for name in names if name not in set(Fault)}
    with progress_bar("Reading groups", len(labeled)) as advance_to:
        truth = read_truth(_counted(labeled, advance_to))
    with progress_bar("Asking sources", len(labeled)) as advance_to:
        trial = try_sources(
            labeled,
            [others.get(name) or StandInSource(Fault(name), truth, seed) for name in names],
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


def open_named(name: str, weights: Path | None, device: str) -> Source:
    """Reads the weights of a source.

    Args:
        name: "calico", or a source as CALICO_SOURCES names it.
        weights: of CALICO; None for the shipped ones.
        device: of the network.

    Raises:
        InvalidConfigError: an unknown name.
        CheckpointError: the weights cannot be used.
    """
    if name != OWN_SOURCE:
        try:
            (choice,) = read_choices((name,), load_settings().sources_dir)
        except InvalidConfigError as error:
            known = f"{STAND_INS}, {OWN_SOURCE}, {', '.join(Fault)}"
            raise InvalidConfigError(f"--sources: {error}; or of {known}") from error
        return open_source(choice, device)
    # torch takes seconds to import: stand-ins alone must not wait for it.
    from calico_model.assistant import Assistant
    from calico_model.predictor import DEFAULT_WEIGHTS, load_predictor

    predictor = load_predictor(weights or DEFAULT_WEIGHTS, device=device)
    return OwnSource(Assistant(predictor))


def _names(text: str) -> tuple[str, ...]:
    names: list[str] = []
    for name in (one.strip() for one in text.split(",")):
        names += list(Fault) if name == STAND_INS else [name]
    return tuple(dict.fromkeys(names))


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
