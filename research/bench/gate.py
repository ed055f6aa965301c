"""`calico bench gate`: how often the gate refuses poisoned corrections and accepts good ones."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from backend.cli.options import DeviceOption, WeightsOption
from backend.cli.progress import training_bar
from backend.cli.tables import print_fitted
from backend.cli.trainer import find_base_groups
from backend.learning.schedule import RunState
from backend.settings import Settings, load_settings
from backend.storage.store import open_store
from calico_model.data.opening import DrawnGroups
from calico_model.data.synthetic import SceneSplit
from calico_model.errors import InvalidConfigError
from research.bench.gate_trials import (
    Batch,
    Poison,
    ProjectGroups,
    Sizes,
    TaskImages,
    Trial,
    run_trials,
)
from research.bench.photos import OptionalSetsOption, find_sets, open_pairs

if TYPE_CHECKING:
    from backend.learning.updater import OnlineUpdater

_RIGHT_SHARE = 0.95  # 19 of 20
_GIB = 2**30
_ALL_STEPS_S = 1e6
_PAIRS, _MOST_DRAWN = (2, 2), 10_000


def bench_gate(
    split: Annotated[
        SceneSplit | None,
        typer.Option(
            "--split", help="Draw projects of things of this split. [default: unseen-domain]"
        ),
    ] = None,
    sets: OptionalSetsOption = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="With --sets: only the set of this name; repeatable."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Number of projects to try.")] = 20,
    first_seed: Annotated[
        int, typer.Option("--first-seed", min=0, help="Seed of the first project.")
    ] = 0,
    poison: Annotated[
        Poison, typer.Option("--poison", help="What is wrong in a poisoned batch.")
    ] = Poison.BOTH,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            min=1,
            help="Processor time of one update; all its steps if not given.",
        ),
    ] = None,
    weights: WeightsOption = None,
    device: DeviceOption = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Write every trial as JSON, as soon as it is over.", metavar="FILE"
        ),
    ] = None,
) -> None:
    """Show poisoned and good corrections to the quality check.

    Every seed is a project of a domain that the model has never met: drawn ones, or photographs
    with --sets. Project k takes set k modulo the number of sets, with pairs of its own. The first
    corrections become a version. Then a batch arrives with random masks and shuffled labels. It is
    deleted again, and the same tasks arrive with their truth. Journal, tasks kept for testing,
    update and quality check are those of the product, which keeps none of so few tasks.

    Example: calico bench gate --seconds 15 --seeds 3

    The exit status is 1 if fewer than 19 of 20 poisoned batches were rejected, or fewer than 19 of
    20 good ones accepted. The last line is JSON.
    """
    sizes = Sizes()
    project = project_groups(split, sets, only, least=sizes.first + sizes.then)
    trials: list[Trial] = []
    settings = load_settings(weights=weights, device=device)
    with (
        tempfile.TemporaryDirectory(prefix="calico-gate-") as place,
        training_bar("loading") as show,
    ):
        folder, images = Path(place), TaskImages()
        store = open_store(f"sqlite:///{folder / 'calico.sqlite3'}", commit_timeout_s=30)
        try:
            updater = _updater(settings, images, folder, seconds)
            for seed in range(first_seed, first_seed + seeds):
                groups = project(seed)
                name = f"seed {seed} ({groups.source})"

                def announce(batch: Batch, name: str = name) -> None:
                    show(f"{name}, {batch}", len(trials), len(Batch) * seeds)

                trials_of_seed = run_trials(
                    store,
                    folder / "adapters",
                    images,
                    updater,
                    groups,
                    poison=poison,
                    sizes=sizes,
                    on_run=announce,
                )
                for trial in trials_of_seed:
                    trials.append(trial)
                    typer.echo(f"{name}, {trial.batch}: {trial.state}: {trial.reason}", err=True)
                    if out is not None:
                        write_trials(out, trials)  # a measurement that is stopped keeps these
        finally:
            store.close()
    figures = sum_up(trials)
    print_fitted(_table(trials))
    typer.echo(json.dumps(figures))
    if not is_right(figures):
        raise typer.Exit(1)


def project_groups(
    split: SceneSplit | None, sets: Path | None, only: Sequence[str] | None, *, least: int
) -> Callable[[int], ProjectGroups]:
    """Returns the function that opens the groups of a project, by its seed.

    Args:
        split: of drawn projects, None for the unseen domain.
        sets: folder of the sets of photographs, None for drawn projects.
        only: names of those of the sets to take; all if None or empty.
        least: number of groups that a project needs.

    Raises:
        InvalidConfigError: options that do not go together, or no such set; the returned function
            raises it for a set with fewer groups.
    """
    if sets is None:
        if only:
            raise InvalidConfigError("--only: expected --sets beside it")
        drawn = split or SceneSplit.UNSEEN_DOMAIN
        return lambda seed: ProjectGroups(
            seed, drawn.value, DrawnGroups(drawn, _MOST_DRAWN, seed, _PAIRS)
        )
    if split is not None:
        raise InvalidConfigError("--split: expected either --split or --sets, got both")
    folders = find_sets(sets, only=only)

    def photographs(seed: int) -> ProjectGroups:
        folder = folders[seed % len(folders)]
        pairs = open_pairs(folder, seed=seed)
        if len(pairs) < least:
            raise InvalidConfigError(
                f"--sets: expected {least} pairs or more, got {len(pairs)} in {folder}"
            )
        return ProjectGroups(seed, folder.name, pairs)

    return photographs


def sum_up(trials: Sequence[Trial]) -> dict[str, int]:
    """Counts the right decisions of the gate by batch."""

    def count(batch: Batch, state: RunState) -> int:
        return sum(trial.batch is batch and trial.state is state for trial in trials)

    return {
        "seeds": len({trial.seed for trial in trials}),
        "poisoned_rejected": count(Batch.POISONED, RunState.REJECTED),
        "good_accepted": count(Batch.GOOD, RunState.PUBLISHED),
        "first_accepted": count(Batch.FIRST, RunState.PUBLISHED),
    }


def write_trials(target: Path, trials: Sequence[Trial]) -> None:
    """Writes the trials so far as JSON, with their sums."""
    document = sum_up(trials) | {"trials": _documents(trials)}
    target.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def is_right(figures: dict[str, int]) -> bool:
    """Whether at least 19 of 20 decisions were right, on poisoned and on good batches."""
    least = math.ceil(_RIGHT_SHARE * figures["seeds"])
    return min(figures["poisoned_rejected"], figures["good_accepted"]) >= least


def _updater(
    settings: Settings, images: TaskImages, folder: Path, seconds: float | None
) -> OnlineUpdater:
    # torch takes seconds to import: `--help` must not wait for it.
    from backend.learning.updater import OnlineUpdater
    from calico_model.loading.checkpoints import fingerprint
    from calico_model.predictor import DEFAULT_WEIGHTS, load_predictor
    from calico_model.training.online.update import UpdatePlan

    weights = settings.weights or DEFAULT_WEIGHTS
    # The proof is of the gate: it must not depend on how busy this machine is, so an update counts
    # processor time.
    plan = UpdatePlan(seconds=_ALL_STEPS_S if seconds is None else seconds)
    return OnlineUpdater(
        load_predictor(weights, device=settings.device, threads=settings.trainer_threads),
        fingerprint(weights),
        images,
        folder / "features",
        feature_bytes=_GIB,
        base_groups=find_base_groups(settings),
        plan=plan,
        clock=time.process_time,
    )


def _documents(trials: Sequence[Trial]) -> list[dict[str, object]]:
    return [
        {
            "seed": trial.seed,
            "source": trial.source,
            "batch": trial.batch.value,
            "state": trial.state.value,
            "reason": trial.reason,
            "gate": trial.gate,
            "seconds": round(trial.seconds, 1),
        }
        for trial in trials
    ]


def _table(trials: Sequence[Trial]) -> Table:
    table = Table(title="Verdicts of the quality check")
    for name in (
        "project",
        "batch",
        "decision",
        "mIoU, kept for testing",
        "Recall, kept for testing",
        "mIoU, old drawings",
        "Recall, old drawings",
    ):
        table.add_column(name)
    for trial in trials:
        cells = [
            " -> ".join(f"{value:.1f}" for value in trial.gate.get(place, {}).get(metric, ()))
            for place in ("held_out", "probe")
            for metric in ("mIoU", "Recall")
        ]
        table.add_row(f"{trial.seed}, {trial.source}", trial.batch, trial.state, *cells)
    return table
