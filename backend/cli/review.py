"""`calico review`: which tasks to look at first, what to trust per label, and bulk acceptance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.table import Table

from backend.cli.bulk_accept import CopiedTasks, accept, find_candidates, undo
from backend.cli.connect import (
    BackendUrlOption,
    KeyOption,
    PasswordOption,
    UrlOption,
    UserOption,
    ends_of,
)
from backend.cli.options import DataDirOption, command_settings, guest_store
from backend.cli.predict_all import find_backend, read_states
from backend.cli.progress import progress_bar
from backend.cli.tables import print_fitted
from backend.errors import SettingsError
from backend.label_studio.client import LabelStudioClient, LabelStudioProject
from backend.label_studio.predictions import (
    PredictionSummary,
    TaskState,
    stored_predictions,
)
from backend.label_studio.views import put_review_view, put_unreviewed_view
from backend.learning.derivation import Derivation, StudioPredictions
from backend.learning.label_quality import LabelQuality, LabelSets, read_label_quality
from backend.learning.repository import CorrectionRepository
from backend.learning.score_thresholds import label_thresholds
from backend.settings import Settings
from calico_model.vocabulary import name_of

_SHOWN_TASKS, _SHOWN_LABELS = 10, 30


def review(
    project: Annotated[int, typer.Option(help="Project id, the number in its address.")],
    accept_above: Annotated[
        float | None,
        typer.Option(
            "--accept-above",
            metavar="SCORE",
            help="Accept the predictions of tasks whose every region has this score or more.",
        ),
    ] = None,
    take_back: Annotated[
        bool, typer.Option("--undo", help="Delete what was accepted and nobody touched since.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what there is to do.")
    ] = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
    backend_url: BackendUrlOption = None,
    user: UserOption = None,
    password: PasswordOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Show which tasks to look at first and what to trust. Run it where the backend runs.

    It writes a tab into Label Studio's Data Manager: the tasks that nobody has annotated, the
    lowest score first. A score is the expected share of right regions, so the first tasks are
    those where looking gains most. The table of labels counts what annotators did to predicted
    regions; "accept from" is the lowest score from which on 90 % of them were right.

    --accept-above makes annotations of predictions that nobody has looked at. They stand in a
    tab of their own and teach nothing until a person submits them. --undo deletes them again.

    Examples:
    calico review --project 7
    calico review --project 7 --accept-above 0.9 --dry-run
    calico review --project 7 --undo

    The last line of the output is JSON.
    """
    if accept_above is not None and take_back:
        raise SettingsError("--undo: give either --accept-above or --undo")
    if accept_above is not None and not 0 < accept_above <= 1:
        raise SettingsError(
            f"--accept-above: expected a score above 0, at most 1, got {accept_above:g}"
        )
    settings = command_settings(
        data_dir=data_dir,
        label_studio_url=url,
        label_studio_api_key=api_key,
        basic_auth_user=user,
        basic_auth_password=password,
    )
    ends = ends_of(settings, backend_url)
    copied = CopiedTasks(settings.data_dir, project)
    with closing(ends.client):
        held = ends.client.project(project)
        if take_back:
            report = _undo(ends.client, held, copied, is_dry_run=dry_run)
        else:
            with closing(find_backend(ends, project, backend_url)) as backend:
                version = backend.version(project, held.label_config)
                states = read_states(ends, backend, project, version, is_dry_run=dry_run)
            if accept_above is None:
                report = _order(ends.client, held, states, version, settings, is_dry_run=dry_run)
            else:
                report = _accept(
                    ends.client, held, states, version, copied, accept_above, is_dry_run=dry_run
                )
    typer.echo(json.dumps({"project": project, "dry_run": dry_run} | report))


def _order(
    client: LabelStudioClient,
    project: LabelStudioProject,
    states: Sequence[TaskState],
    version: str,
    settings: Settings,
    *,
    is_dry_run: bool,
) -> dict[str, Any]:
    """Orders the tasks, writes the tab, and shows what annotators did to each label."""
    labels = _reviewed_labels(client, project.id, settings)
    waiting = [state for state in states if not state.is_begun]
    scored = [state for state in waiting if state.score is not None]
    ordered = sorted(scored, key=lambda state: (state.score or 0.0, state.id))
    first = [_newest(client, state, version) for state in ordered[:_SHOWN_TASKS]]
    view = None if is_dry_run else put_review_view(client, project.id)
    is_corrected = any(one.quality.is_known for one in labels)
    print_fitted(_label_table(labels) if is_corrected else "No prediction has been corrected yet.")
    print_fitted(_task_table(ordered, first))
    if missing := len(waiting) - len(scored):
        typer.echo(
            f"{_tasks(missing)} without a prediction of {version}:\n"
            f"calico predict-all --project {project.id}"
        )
    if drafts := sum(state.has_draft for state in states):
        typer.echo(f"{_tasks(drafts)} left out: somebody has begun and not submitted.")
    if view is not None:
        typer.echo(f"In this order in Label Studio: {view}")
    return {
        "version": version,
        "tasks": len(states),
        "to_review": len(scored),
        "with_draft": drafts,
        "without_prediction": missing,
        "view": view,
        "order": [state.id for state in ordered],
        "labels": [asdict(one.quality) | {"threshold": one.threshold} for one in labels],
    }


def _accept(
    client: LabelStudioClient,
    project: LabelStudioProject,
    states: Sequence[TaskState],
    version: str,
    copied: CopiedTasks,
    threshold: float,
    *,
    is_dry_run: bool,
) -> dict[str, Any]:
    candidates = find_candidates(client, states, version, threshold)
    accepted, view = 0, None
    if candidates.sure and not is_dry_run:
        accepted = accept(client, project, candidates.sure, copied, version)
        view = put_unreviewed_view(client, project.id)
    verb = "would be accepted" if is_dry_run else "accepted, unreviewed"
    number = len(candidates.sure) if is_dry_run else accepted
    typer.echo(f"{_tasks(number)} {verb}: every region has {threshold:g} or more.")
    typer.echo(
        f"{candidates.doubtful} have a region below; {candidates.empty} have no region and are "
        "never accepted unseen."
    )
    if view is not None:
        typer.echo(f"They teach nothing until a person submits them: {view}")
        typer.echo(f"To take it back: calico review --project {project.id} --undo")
    return {
        "version": version,
        "accept_above": threshold,
        "candidates": len(candidates.sure),
        "accepted": accepted,
        "below": candidates.doubtful,
        "empty": candidates.empty,
        "view": view,
    }


def _undo(
    client: LabelStudioClient,
    project: LabelStudioProject,
    copied: CopiedTasks,
    *,
    is_dry_run: bool,
) -> dict[str, Any]:
    undone = undo(client, project, copied, is_dry_run=is_dry_run)
    verb = "would be taken back" if is_dry_run else "taken back"
    typer.echo(f"{_tasks(undone.deleted)} {verb}.")
    if undone.touched:
        typer.echo(f"{_tasks(undone.touched)} stay as they are: a person has touched them.")
    return {"taken_back": undone.deleted, "touched": undone.touched, "gone": undone.gone}


@dataclass(frozen=True)
class _ReviewedLabel:
    """What annotators did to a label, and the score from which on it can be trusted, or None."""

    quality: LabelQuality
    threshold: float | None


def _reviewed_labels(
    client: LabelStudioClient, project_id: int, settings: Settings
) -> tuple[_ReviewedLabel, ...]:
    with guest_store(settings) as store:
        repository = CorrectionRepository(store)
        derivation = Derivation(repository, StudioPredictions(client))
        with progress_bar("Comparing annotations with their predictions", 100) as show:
            derivation.derive(project_id, on_progress=lambda done, total: show(100 * done // total))
        vocabulary = LabelSets(store).of(project_id)
        thresholds = label_thresholds(repository.outcomes(project_id), vocabulary)
        qualities = read_label_quality(store, project_id, vocabulary)
    return tuple(
        _ReviewedLabel(one, thresholds.get(name_of(one.label, vocabulary))) for one in qualities
    )


def _tasks(number: int) -> str:
    return f"{number} task" if number == 1 else f"{number} tasks"


def _newest(client: LabelStudioClient, state: TaskState, version: str) -> PredictionSummary | None:
    found = [one for one in stored_predictions(client, state.id) if one.version == version]
    return found[-1] if found else None


def _label_table(labels: Sequence[_ReviewedLabel]) -> Table:
    table = Table(title="What annotators did to predicted regions", title_justify="left")
    table.add_column("label", overflow="fold")
    for name in ("seen", "kept", "reshaped", "renamed", "removed", "added", "accept\nfrom"):
        table.add_column(name, justify="right", no_wrap=True)
    for reviewed in labels[:_SHOWN_LABELS]:
        one = reviewed.quality
        counts = (one.shown, one.accepted, one.reshaped, one.renamed, one.removed, one.added)
        threshold = "-" if reviewed.threshold is None else f"{reviewed.threshold:.2f}"
        table.add_row(one.label or "(no label)", *map(str, counts), threshold)
    return table


def _task_table(ordered: Sequence[TaskState], first: Sequence[PredictionSummary | None]) -> Table:
    table = Table(title="Look at these first", title_justify="left")
    for name in ("task", "score", "regions", "likely wrong"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("least certain region", overflow="fold")
    for state, prediction in zip(ordered, first, strict=False):
        regions = () if prediction is None else prediction.regions
        worst = min(regions, key=lambda region: region.score or 0.0, default=None)
        wrong = sum(1 - (region.score or 0.0) for region in regions)
        least = (
            "nothing was found"
            if worst is None
            else f"{worst.labels[-1] if worst.labels else 'no label'} {worst.score or 0.0:.2f}"
        )
        score = f"{state.score or 0.0:.2f}"
        table.add_row(str(state.id), score, str(len(regions)), f"{wrong:.1f}", least)
    return table
