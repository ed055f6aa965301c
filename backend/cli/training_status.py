"""`calico status` and `calico train-now`: how learning stands, and a push."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from backend.cli.kept import DataDirOption, ProjectOption, kept_store
from backend.errors import SettingsError
from backend.learning.acceptance import AcceptancePolicy, live_acceptance
from backend.learning.held_out import is_held_out
from backend.learning.repository import CorrectionRepository
from backend.learning.rows import Standing
from backend.learning.runs import RunRepository, TrainingRun
from backend.learning.schedule import RunState
from backend.settings import Settings, load_settings
from backend.store import Store
from backend.versions import Versions

_COLUMNS = ("project", "version", "corrections", "new", "held out", "accepted", "training")
_EVERY_S = 1.0


def status(
    project: ProjectOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every second until Ctrl-C.")
    ] = False,
    data_dir: DataDirOption = None,
) -> None:
    """Show how learning stands in every project. Run it where the backend runs.

    new: corrections the version has not learned from, as far as a trainer has derived
    them. accepted: share of regions annotators left as they were, of the version's newest
    tasks. training: the run under way, or how the last one ended.

    The last line of the output is JSON with one entry per project.
    """
    settings = load_settings(data_dir=data_dir)
    with kept_store(settings) as store:
        if watch:
            _watch(store, settings, project)
        found = summaries(store, settings, project)
    if not watch:
        Console().print(_table(found))
    typer.echo(json.dumps({"projects": found}))


def train_now(
    project: Annotated[int, typer.Option("--project", help="What to train.")],
    data_dir: DataDirOption = None,
) -> None:
    """Ask the trainer to train a project at once, whatever the schedule says.

    Needs a trainer that runs: `calico serve --trainer`, or `calico trainer`. There must be
    a correction that the served version has not learned from. Watch it with
    `calico status --watch`.
    """
    settings = load_settings(data_dir=data_dir)
    with kept_store(settings) as store:
        if project not in CorrectionRepository(store).projects():
            raise SettingsError(f"--project: nothing is known of project {project}")
        RunRepository(store).request(project)
    typer.echo(f"Project {project} is trained as soon as a trainer is free.")
    typer.echo(json.dumps({"project": project, "requested": True}))


def summaries(store: Store, settings: Settings, project: int | None) -> list[dict[str, Any]]:
    """One entry per project, ready for JSON."""
    repository = CorrectionRepository(store)
    projects = repository.projects() if project is None else (project,)
    return [_summary(repository, settings, project_id) for project_id in projects]


def _summary(
    repository: CorrectionRepository, settings: Settings, project_id: int
) -> dict[str, Any]:
    kept = Versions(repository.store, settings.adapters_dir)
    version = kept.served(project_id, start_from=settings.start_from_project)
    is_own = version is not None and version.project_id == project_id
    learned = version.upto_seq if version is not None and is_own else -1
    rows = [row for row in repository.tasks(project_id) if row.standing is Standing.CORRECTED]
    held_out = {row.task_id for row in rows if is_held_out(project_id, row.task_id)}
    served = (
        frozenset(row.version for row in rows if row.version)
        - frozenset(one.id for one in kept.all())
        if version is None
        else frozenset({version.id})
    )
    live = live_acceptance(rows, served, window=AcceptancePolicy().window)
    runs = RunRepository(repository.store).runs(project_id, limit=1)
    return {
        "project": project_id,
        "version": None if version is None else version.id,
        "corrections": len(rows),
        "new": sum(row.seq > learned and row.task_id not in held_out for row in rows),
        "held_out": len(held_out),
        "acceptance": live.tally.acceptance,
        "acceptance_tasks": live.tasks,
        "run": _run(runs[0]) if runs else None,
    }


def _run(run: TrainingRun) -> dict[str, Any]:
    return {
        "id": run.id,
        "cause": run.cause.value,
        "state": run.state.value,
        "stage": run.stage,
        "progress": round(run.progress, 3),
        "eta_s": run.eta_s,
        "version": run.adapter_id,
        "error": run.error,
        "began_at": run.began_at.isoformat(),
        "ended_at": None if run.ended_at is None else run.ended_at.isoformat(),
    }


def _watch(store: Store, settings: Settings, project: int | None) -> None:
    with Live(console=Console(stderr=True), auto_refresh=False) as live:
        try:
            while True:
                live.update(_table(summaries(store, settings, project)), refresh=True)
                time.sleep(_EVERY_S)
        except KeyboardInterrupt:
            return


def _table(found: list[dict[str, Any]]) -> Table:
    table = Table(title="Learning")
    for name in _COLUMNS:
        table.add_column(name, overflow="fold")
    for one in found:
        share = one["acceptance"]
        table.add_row(
            str(one["project"]),
            one["version"] or "base",
            str(one["corrections"]),
            str(one["new"]),
            str(one["held_out"]),
            "-" if share is None else f"{share:.0%} of {one['acceptance_tasks']} tasks",
            _in_words(one["run"]),
        )
    return table


def _in_words(run: dict[str, Any] | None) -> str:
    if run is None:
        return "never"
    if run["state"] == RunState.RUNNING.value:
        eta = "" if run["eta_s"] is None else f", {run['eta_s']:.0f} s left"
        return f"{run['stage']} {run['progress']:.0%}{eta}"
    ended = datetime.fromisoformat(run["ended_at"]).astimezone(UTC)
    error = f": {run['error']}" if run["error"] else ""
    return f"{run['state']} {ended:%Y-%m-%d %H:%M:%S} UTC{error}"
