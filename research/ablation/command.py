"""`calico ablate`: measures what each part of the method adds, on calico-tiny."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as ProgressBar

from backend.cli.tables import print_fitted
from calico_model.data.synthetic import SceneSplit
from calico_model.errors import InvalidConfigError
from research.ablation.plan import COMPONENTS, PLACEMENT, Start, TrialPlan, select_rows

if TYPE_CHECKING:
    from research.ablation.study import Study
    from research.ablation.trial import TrialOutcome


class TableName(StrEnum):
    """A table of the paper."""

    COMPONENTS = "components"
    PLACEMENT = "placement"


_TABLES = {TableName.COMPONENTS: COMPONENTS, TableName.PLACEMENT: PLACEMENT}
_FILES = {TableName.COMPONENTS: "ablation", TableName.PLACEMENT: "placement"}


def ablate(
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the study; run again to go on.", metavar="DIR")
    ],
    table: Annotated[
        TableName, typer.Option("--table", help="Parts left out, or where CAMs are placed.")
    ] = TableName.COMPONENTS,
    rows: Annotated[
        str, typer.Option("--rows", help="Only these and full.", metavar="KEY,KEY")
    ] = "",
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", help="Lends its encoders; calico-tiny if not given.", metavar="DIR"
        ),
    ] = None,
    start: Annotated[
        Start, typer.Option("--start", help="Language side: new, or the weights' own.")
    ] = Start.SCRATCH,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Training steps of a row.")] = 450,
    scenes: Annotated[
        int, typer.Option("--scenes", min=32, help="Training scenes, encoded once.")
    ] = 4000,
    groups: Annotated[int, typer.Option("--groups", min=1, help="Pairs kept for testing.")] = 300,
    split: Annotated[
        SceneSplit, typer.Option("--split", help="Kind of the pairs kept for testing.")
    ] = SceneSplit.SEEN,
    seeds: Annotated[
        str, typer.Option("--seeds", help="Every row runs once with each of these.", metavar="N,N")
    ] = "27",
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, help="Rows at a time, one thread each.")
    ] = 2,
) -> None:
    """Leave out one part of the method at a time, train alike, and compare.

    Rows of --table components, after table 2 of the paper:

    - without_qformer: image tokens through one linear layer.
    - without_dino: CAMs ask the plain global tokens.
    - without_cem: CAMs inject the adapted hidden state alone.
    - without_cam: CEM features are injected, and the prompt does not shift the queries.
    - without_cem_and_cam: nothing is injected.
    - full: everything.

    Rows of --table placement, after figure 8: one_layer, full (two), three_layers.

    All rows keep the same frozen encoders and start with the same mask decoder. The language side
    of a row is new, and starts with the same values wherever rows share a part. All rows see the
    same pairs and questions in the same order, and are judged on the same groups, which no row
    trains on. The features are encoded once; then a step takes under a second on one core, and the
    default table about 25 minutes on two cores:
    calico ablate --out runs/ablation

    After an interruption the same command keeps the finished rows. Only several seeds show how
    much of a difference is chance; seeds may be added later:
    calico ablate --out runs/ablation --seeds 27,28,29

    DIR gets a table as JSON and Markdown, a plot, and of each row its model, curve and report.

    The last line of the output is JSON: one key per row.
    """
    keys = tuple(key.strip() for key in rows.split(",") if key.strip())
    selected = select_rows(_TABLES[table], keys)
    seed_numbers = read_seeds(seeds)
    # torch takes seconds to import: `--help` and a wrong argument must not wait for it.
    from calico_model.predictor import DEFAULT_WEIGHTS
    from research.ablation.comparison import compare_rows
    from research.ablation.report import page, write_study
    from research.ablation.study import Study

    plan = TrialPlan(steps=steps, scenes=scenes, groups=groups, split=split, start=start)
    study = Study(weights or DEFAULT_WEIGHTS, plan, selected, seed_numbers, out)
    outcomes = _run(study, jobs)
    lines = compare_rows(selected, seed_numbers, outcomes)
    print_fitted(page(lines))
    run = {
        "table": str(table),
        "weights": study.weights.name,
        "seeds": list(seed_numbers),
        "start": str(start),
        "steps": steps,
        "pairs_per_step": plan.pairs,
        "scenes": scenes,
        "groups": groups,
        "split": str(split),
    }
    title = f"{groups} pairs kept for testing ({split}), {steps} steps of {plan.pairs} pairs a row"
    stem = _FILES[table]
    verdict = write_study(lines, out, stem=stem, title=title, start=plan.start, run=run)
    typer.echo(f"{stem}.json, {stem}.md, {stem}.png and trials/ are in {out}.")
    typer.echo(json.dumps(verdict))


def read_seeds(text: str) -> tuple[int, ...]:
    """Reads "27" or "27,28".

    Raises:
        InvalidConfigError: not a list of different numbers from 0 up.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words) or len(set(words)) != len(words):
        raise InvalidConfigError(
            f"--seeds: expected different numbers such as 27 or 27,28, got {text!r}"
        )
    return tuple(int(word) for word in words)


def _run(study: Study, jobs: int) -> dict[tuple[str, int], TrialOutcome]:
    """Prepares and runs a study; shows a progress bar for all rows and one per piece of work."""
    import torch

    from research.ablation.study import StudyProgress, prepare, run_study

    torch.set_num_threads(jobs)
    console = Console(stderr=True)
    is_hidden = not console.is_terminal
    with ProgressBar(*_columns(), console=console, transient=True, disable=is_hidden) as bar:
        tasks: dict[str, TaskID] = {}
        done: dict[str, int] = {}

        def show(progress: StudyProgress) -> None:
            if progress.work not in tasks:
                tasks[progress.work] = bar.add_task(progress.work, total=progress.total)
            is_running = progress.done < progress.total
            bar.update(tasks[progress.work], completed=progress.done, visible=is_running)

        prepare(study, workers=jobs, on_progress=show)
        each = study.plan.steps + study.plan.groups
        finished_before = len(study.finished())
        rows = bar.add_task(
            "all rows", total=each * len(study.trials), completed=each * finished_before
        )

        def count(progress: StudyProgress) -> None:
            show(progress)
            done[progress.work] = progress.done
            bar.update(rows, completed=each * finished_before + sum(done.values()))

        return run_study(study, jobs=jobs, on_progress=count)


def _columns() -> tuple[ProgressColumn, ...]:
    texts = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn())
    return (*texts, MofNCompleteColumn(), TimeRemainingColumn(), TimeElapsedColumn())
