"""`calico status` and `calico train-now`: how learning stands, and a push."""

from __future__ import annotations

import json
import time
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from backend.cli.connect import EVERYWHERE
from backend.cli.options import (
    DataDirOption,
    ProjectOption,
    check_is_known,
    command_settings,
    guest_store,
)
from backend.cli.tables import fitted, print_fitted
from backend.errors import SettingsError
from backend.label_studio.backend_client import BackendClient
from backend.learning.overview import Overview, ProjectStanding
from backend.learning.repository import CorrectionRepository
from backend.learning.schedule import RunState
from backend.learning.training_runs import RunRepository, TrainingRun
from backend.settings import Settings
from backend.storage.adapter_files import adapter_files
from backend.storage.versions import Versions

_COLUMNS = (
    "project",
    "version",
    "corrections",
    "new",
    "kept for testing",
    "accepted",
    "training",
)
_EVERY_S = 1.0


def status(
    project: ProjectOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every second until Ctrl-C.")
    ] = False,
    data_dir: DataDirOption = None,
) -> None:
    """Show how learning stands in every project. Run it where the backend runs.

    - new: corrections that the version has not learned from. A trainer has to find them first.
    - kept for testing: corrections that nothing is learned from; the quality check uses them.
    - accepted: share of regions that annotators did not change, in the version's newest tasks.
    - training: the present run, or how the last run ended.

    Example: calico status --watch

    Below the table: the tasks that Label Studio, or `calico predict-all`, has asked to be
    predicted together since the backend was started.

    The last line of the output is JSON with one entry per project.
    """
    settings = command_settings(data_dir=data_dir)
    with guest_store(settings) as store:
        overview = Overview(
            store,
            Versions(store, adapter_files(settings)),
            start_from=settings.start_from_project,
        )
        if project is not None:
            check_is_known(project, overview.projects())
        if watch:
            _watch(overview, project)
        projects = summaries(overview, project)
    batches = _batches(settings)
    for summary in projects:
        summary["predictions"] = batches.get(summary["project"])
    for summary in () if watch else projects:
        typer.echo(_sentences(summary))
    if not watch:
        print_fitted(_table(projects) if projects else "No project has sent corrections yet.")
        for line in _batch_lines(projects):
            typer.echo(line)
    typer.echo(json.dumps({"projects": projects}))


def _batches(settings: Settings) -> dict[int, dict[str, Any]]:
    """Returns the newest batch of predictions by project; {} if no backend answers here."""
    user, password = settings.basic_auth_user, settings.basic_auth_password
    credentials = None if user is None or password is None else (user, password.get_secret_value())
    host = "127.0.0.1" if settings.host in EVERYWHERE else settings.host
    with closing(BackendClient(f"http://{host}:{settings.port}", credentials)) as backend:
        return backend.batches()


def _batch_lines(projects: list[dict[str, Any]]) -> list[str]:
    lines = []
    for summary in projects:
        batch = summary["predictions"]
        if batch is None:
            continue
        rest = [f"{batch[name]} {name}" for name in ("waiting", "failed") if batch[name]]
        counts = ", ".join([f"{batch['done']} of {batch['total']} tasks are ready", *rest])
        lines.append(f"Last request for predictions of project {summary['project']}: {counts}.")
    return lines


def train_now(
    project: Annotated[int, typer.Option("--project", help="The project to train.")],
    data_dir: DataDirOption = None,
) -> None:
    """Ask the trainer to train a project at once, whatever the schedule says.

    It needs a running trainer: `calico serve` starts one, `calico trainer` is one. It also needs a
    correction that the served version has not learned from. `calico status --watch` shows the
    progress.

    Example: calico train-now --project 7
    """
    settings = command_settings(data_dir=data_dir)
    with guest_store(settings) as store:
        if all(head.is_deleted for head in CorrectionRepository(store).heads(project)):
            raise SettingsError(
                f"--project: project {project} has sent no corrections yet; submit one first"
            )
        versions = Versions(store, adapter_files(settings))
        overview = Overview(store, versions, start_from=settings.start_from_project)
        standing = overview.standing(project)
        RunRepository(store).request(project)
    if standing.corrections and not standing.new:
        typer.echo(
            f"Project {project} has learned from all {standing.corrections} corrections that the "
            "trainer has found. It is trained as soon as there is a new one."
        )
    else:
        typer.echo(f"A trainer will train project {project} as soon as it is free.")
    typer.echo(json.dumps({"project": project, "requested": True}))


def summaries(overview: Overview, project: int | None) -> list[dict[str, Any]]:
    """Returns one entry per project, ready for JSON."""
    projects = overview.projects() if project is None else (project,)
    return [_summary(overview, overview.standing(project_id)) for project_id in projects]


def _summary(overview: Overview, standing: ProjectStanding) -> dict[str, Any]:
    return {
        "project": standing.project_id,
        "version": None if standing.version is None else standing.version.id,
        "corrections": standing.corrections,
        "new": standing.new,
        "held_out": standing.held_out,
        "acceptance": standing.acceptance,
        "acceptance_tasks": standing.acceptance_tasks,
        "run": None if standing.run is None else _run(standing.run),
        "explanation": asdict(overview.explanation(standing)),
        "outlook": asdict(overview.outlook(standing)),
    }


def _sentences(project: dict[str, Any]) -> str:
    """What annotators see in a project, why, what to do next, and when it will be useful."""
    explanation = project["explanation"]
    return (
        f"Project {project['project']}: {explanation['seen']}\n"
        f"  Why: {explanation['why']}\n"
        f"  Next: {explanation['advice']}\n"
        f"  Progress: {project['outlook']['words']}\n"
    )


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


def _watch(overview: Overview, project: int | None) -> None:
    console = Console(stderr=True, markup=False, highlight=False)
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        try:
            while True:
                table = _table(summaries(overview, project))
                live.update(Group(*fitted(console, table)), refresh=True)
                time.sleep(_EVERY_S)
        except KeyboardInterrupt:
            return


def _table(projects: list[dict[str, Any]]) -> Table:
    table = Table(title="Learning")
    for name in _COLUMNS:
        table.add_column(name)
    for project in projects:
        share = project["acceptance"]
        table.add_row(
            str(project["project"]),
            project["version"] or "shipped model",
            str(project["corrections"]),
            str(project["new"]),
            str(project["held_out"]),
            "-" if share is None else f"{share:.0%} of {project['acceptance_tasks']} tasks",
            _in_words(project["run"]),
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
