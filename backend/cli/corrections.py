"""`calico corrections`: shows what annotators changed in each project, and exports it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from backend.cli.corrections_export import write_coco, write_records
from backend.cli.options import (
    DataDirOption,
    ProjectOption,
    check_is_known,
    command_settings,
    guest_store,
)
from backend.cli.progress import progress_bar
from backend.cli.tables import print_fitted
from backend.errors import SettingsError
from backend.label_studio.client import LabelStudioClient
from backend.learning.correction import RegionTally
from backend.learning.derivation import Derivation, Derived, StudioPredictions
from backend.learning.reconcile import Reconciler, Repair
from backend.learning.repository import CorrectionRepository
from backend.learning.rows import Standing, TaskRow
from backend.learning.schedule import held_out_tasks
from backend.serving.studio import connect_client, image_source
from backend.settings import Settings

_HEADS = {"held_out": "kept for testing"}


class Split(StrEnum):
    """Which tasks are exported."""

    ALL = "all"
    TRAIN = "train"
    HELD_OUT = "held-out"


def corrections(
    project: ProjectOption = None,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export",
            metavar="FILE|DIR",
            help="FILE.json: masks and names as COCO. DIR: images and records to train on.",
        ),
    ] = None,
    split: Annotated[
        Split,
        typer.Option(
            "--split",
            help="Export all tasks, those to train on, or those kept for testing.",
        ),
    ] = Split.ALL,
    reconcile: Annotated[
        bool,
        typer.Option("--reconcile", help="Ask Label Studio first for changes that did not arrive."),
    ] = False,
    accept_deletions: Annotated[
        bool,
        typer.Option(
            "--accept-deletions",
            help="With --reconcile: count missing annotations as deleted on purpose.",
        ),
    ] = False,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild", help="First delete all derived corrections and derive them again."
        ),
    ] = False,
    data_dir: DataDirOption = None,
) -> None:
    """Show what annotators changed, and export it. Run it where the backend runs.

    Every task counts once. Its newest annotation (ground truth first) is compared with the
    prediction that the annotator started from:

    - accepted: the annotator left the region as it was.
    - reshaped: the annotator changed its mask.
    - relabelled: the annotator changed its name.
    - kind changed: the annotator changed common to unique, or unique to common.
    - added: the annotator drew a region that was not predicted.
    - removed: the annotator deleted a predicted region.

    A region may be both reshaped and relabelled. Of later tasks a fifth is kept for testing:
    nothing is learned from them, and they show whether a new version is better.

    --export FILE.json writes masks and names as COCO. --export DIR makes a folder with
    records.json, annotations.json and images/, which `calico evaluate` and `calico train` read.
    The folder must not exist yet.

    Example: calico corrections --project 7 --export corrections.json

    The last line of the output is JSON, with one entry per project.
    """
    settings = command_settings(data_dir=data_dir)
    with guest_store(settings) as store:
        repository = CorrectionRepository(store)
        client = connect_client(settings)
        if accept_deletions and not reconcile:
            raise SettingsError("--accept-deletions: it needs --reconcile as well")
        if reconcile and client is None:
            raise SettingsError(
                "--reconcile: it asks Label Studio; set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY"
            )
        derivation = Derivation(repository, None if client is None else StudioPredictions(client))
        projects = repository.projects()
        if project is not None:
            check_is_known(project, projects)
            projects = (project,)
        summaries = []
        for project_id in projects:
            repair = (
                _reconcile(repository, client, project_id, is_approved=accept_deletions)
                if reconcile
                else None
            )
            derived = _derive(derivation, project_id, rebuild=rebuild)
            summaries.append(_summary(project_id, repository.tasks(project_id), derived, repair))
        print_fitted(_table(summaries) if summaries else "No project has sent corrections yet.")
        if export is not None:
            places = list(_chosen(repository, projects, split))
            written = _export(export, places, derivation, settings, client)
            typer.echo(f"{written} of {len(places)} tasks are in {export}")
    typer.echo(json.dumps({"projects": summaries}))


def _reconcile(
    repository: CorrectionRepository,
    client: LabelStudioClient | None,
    project_id: int,
    *,
    is_approved: bool,
) -> Repair | None:
    if client is None:
        return None
    with progress_bar(f"Comparing project {project_id} with Label Studio", None):
        reconciler = Reconciler(repository, client)
        return reconciler.reconcile(project_id, is_full=True, is_approved=is_approved)


def _derive(derivation: Derivation, project_id: int, *, rebuild: bool) -> Derived:
    work = derivation.rebuild if rebuild else derivation.derive
    with progress_bar(f"Comparing annotations of project {project_id}", 100) as show:
        return work(project_id, on_progress=lambda done, total: show(100 * done // total))


def _summary(
    project_id: int, rows: tuple[TaskRow, ...], derived: Derived, repair: Repair | None
) -> dict[str, object]:
    corrected = [row for row in rows if row.standing is Standing.CORRECTED]
    tally = sum((row.tally for row in corrected), RegionTally())
    agreements = [row.agreement for row in corrected if row.agreement is not None]
    summary: dict[str, object] = {
        "project": project_id,
        "tasks": len(corrected),
        "skipped": sum(row.standing is Standing.SKIPPED and not row.is_unseen for row in rows),
        "unseen": sum(row.is_unseen for row in rows),
        "unreadable": sum(row.standing is Standing.UNREADABLE for row in rows),
        "waiting": derived.waiting,
        "held_out": len(held_out_tasks(project_id, rows)),
        "predicted": tally.predicted,
        "accepted": tally.accepted,
        "reshaped": tally.reshaped,
        "relabelled": tally.relabelled,
        "kind_changed": tally.kind_changed,
        "added": tally.added,
        "removed": tally.removed,
        "acceptance": _rounded(tally.acceptance),
        "reshaped_iou": _rounded(tally.mean_reshaped_iou),
        "agreement": _rounded(sum(agreements) / len(agreements) if agreements else None),
    }
    if repair is not None:
        summary |= {
            "recovered": repair.recovered,
            "deleted": repair.deleted,
            "held_back": repair.held_back,
        }
    return summary


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _table(summaries: list[dict[str, object]]) -> Table:
    table = Table(title="Corrections")
    names = [name for name in summaries[0] if name not in ("unreadable", "waiting")]
    for name in names:
        table.add_column(_HEADS.get(name, name.replace("_", " ")), justify="right")
    for summary in summaries:
        table.add_row(*("-" if summary[name] is None else str(summary[name]) for name in names))
    return table


def _chosen(
    repository: CorrectionRepository, projects: tuple[int, ...], split: Split
) -> Iterator[tuple[int, int]]:
    """Yields project and task id of every correction to export."""
    for project_id in projects:
        rows = repository.tasks(project_id)
        kept = held_out_tasks(project_id, rows)
        for row in rows:
            held_out = row.task_id in kept
            is_wanted = split is Split.ALL or held_out == (split is Split.HELD_OUT)
            if row.standing is Standing.CORRECTED and is_wanted:
                yield project_id, row.task_id


def _export(
    target: Path,
    places: list[tuple[int, int]],
    derivation: Derivation,
    settings: Settings,
    client: LabelStudioClient | None,
) -> int:
    # One at a time: the masks of a project are more than a memory holds.
    loaded = (derivation.load(*place) for place in places)
    chosen = (correction for correction in loaded if correction is not None)
    with progress_bar("Writing corrections", len(places)) as show:
        fetch = image_source(settings, client).fetch_group
        if target.suffix == ".json":
            return write_coco(target, chosen, fetch, on_progress=show)
        return write_records(target, chosen, fetch, on_progress=show)
