"""`calico rename-label`: gives a label another name, wherever it stands.

The labeling config comes first, because from then on everything that says the old name means the
new one. Then annotations, drafts and stored predictions are renamed task by task, and the journal
is told that these are no new corrections. A run that ends early is continued by the same command.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Annotated

import typer

from backend.cli.bulk_accept import CopiedTasks, copy_again
from backend.cli.connect import KeyOption, UrlOption, label_studio_of
from backend.cli.options import DataDirOption, command_settings, guest_store
from backend.cli.progress import progress_bar, stop_requests, told_how_to_go_on
from backend.errors import BackendError, LabelStudioAuthError, SettingsError
from backend.label_studio.client import LabelStudioClient, LabelStudioProject
from backend.label_studio.label_rename import LabelRenaming, plan_renaming
from backend.label_studio.predictions import TaskState, task_states
from backend.label_studio.relabelling import (
    RelabelledTask,
    Renamed,
    count_labels_anew,
    save_annotation,
    save_draft,
    save_prediction,
    set_config,
    tasks_to_relabel,
)
from backend.learning.reconcile import is_journalled
from backend.learning.repository import CorrectionRepository

_AT_ONCE = 8
_SHOWN_FAILURES = 20
_MOST_FAILURES = 3  # tasks that fail in a row; then Label Studio is away


@dataclass
class Relabelling:
    """What was renamed; with --dry-run, what would be.

    Attributes:
        tasks: tasks in which the old name stood.
        annotations, drafts, predictions: of these, the ones that were renamed.
        copies: copies of predictions that nobody has looked at, and that were copied again.
        held: annotations that were left, because saving them throws unsaved changes away.
        unseen: copies that were left, because their prediction cannot be copied again.
        failures: reason by task.
        is_stopped: Ctrl-C ended the work early.
    """

    tasks: int = 0
    annotations: int = 0
    drafts: int = 0
    predictions: int = 0
    copies: int = 0
    held: int = 0
    unseen: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    is_stopped: bool = False


def rename_label(
    old: Annotated[str, typer.Argument(metavar="OLD", help="The label as it is now.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its new name.")],
    project: Annotated[int, typer.Option(help="Project id, the number in its address.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="NEW is a label, too: make both one, for good.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be renamed and change nothing.")
    ] = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Rename a label: in the config, in annotations, and in what was learned.

    The labeling config of the project, all its annotations and drafts, the stored predictions and
    the backend's corrections get the new name. What the model has learned stays: predictions show
    the new name at once, and no training is started. Run it where the backend runs. A run that was
    stopped is continued by the same command; annotations that need nothing are left alone.

    Examples:
    calico rename-label --project 7 wheel tyre --dry-run
    calico rename-label --project 7 wheel tyre
    calico rename-label --project 7 rim tyre --merge

    The last line of the output is JSON. The exit status is 1 when something was left.
    """
    began = time.monotonic()
    settings = command_settings(
        label_studio_url=url, label_studio_api_key=api_key, data_dir=data_dir
    )
    with closing(label_studio_of(settings)) as client, guest_store(settings) as store:
        held = client.project(project)
        renaming = plan_renaming(held.label_config, old, new, merges=merge)
        copied = CopiedTasks(settings.data_dir, project)
        repository = CorrectionRepository(store)
        if not renaming.is_known:
            work = _Work(client, repository, held, renaming, copied, is_dry_run=True)
            if not work.has_any():
                raise SettingsError(
                    f"OLD: project {project} has no label {renaming.old!r}, and nothing is drawn "
                    "under this name"
                )
        has_new_config = renaming.config != held.label_config
        if has_new_config and not dry_run:
            set_config(client, project, renaming.config)
            held = client.project(project)
        work = _Work(client, repository, held, renaming, copied, is_dry_run=dry_run)
        with told_how_to_go_on():
            work.run(stop_requests())
    done = work.done
    _tell(done, renaming, project, dry_run=dry_run)
    report = {
        "project": project,
        "old": renaming.old,
        "new": renaming.new,
        "merged": renaming.merges,
        "config_changed": has_new_config,
        "tasks": done.tasks,
        "annotations": done.annotations,
        "drafts": done.drafts,
        "predictions": done.predictions,
        "copies": done.copies,
        "left_for_draft": done.held,
        "left_unseen": done.unseen,
        "failures": [{"task": t, "reason": why} for t, why in sorted(done.failures.items())],
        "stopped": done.is_stopped,
        "dry_run": dry_run,
        "seconds": round(time.monotonic() - began, 1),
    }
    typer.echo(json.dumps(report))
    if done.failures or done.held or done.unseen:
        raise typer.Exit(1)


class _Work:
    """One run over the tasks of a project.

    Attributes:
        done: what was renamed so far.
    """

    def __init__(
        self,
        client: LabelStudioClient,
        repository: CorrectionRepository,
        project: LabelStudioProject,
        renaming: LabelRenaming,
        copied: CopiedTasks,
        *,
        is_dry_run: bool,
    ) -> None:
        self._client, self._repository, self._copied = client, repository, copied
        self._project, self._renaming, self._is_dry_run = project, renaming, is_dry_run
        self.done = Relabelling()

    def run(self, is_stopping: Callable[[], bool]) -> None:
        """Renames until all is done or Ctrl-C is pressed.

        Raises:
            LabelStudioError: it refuses everything, or cannot be reached any more.
        """
        states = self._states()
        failed_in_row = 0
        with progress_bar(f"Renaming in project {self._project.id}", len(states)) as show:
            for number, task in enumerate(self._tasks(states), start=1):
                if is_stopping():
                    self.done.is_stopped = True
                    break
                try:
                    self._rename(task)
                    failed_in_row = 0
                except LabelStudioAuthError:
                    raise
                except BackendError as error:
                    self.done.failures[task.id] = str(error)
                    failed_in_row += 1
                    if failed_in_row >= _MOST_FAILURES:
                        raise
                show(number)
        if self.done.drafts and not self._is_dry_run:
            count_labels_anew(self._client, self._project.id)

    def has_any(self) -> bool:
        """Whether the old name is anywhere; Label Studio's own count of labels cannot be trusted.

        Raises:
            LabelStudioError: refused or not reached.
        """
        states = self._states()
        with progress_bar(f"Looking for {self._renaming.old!r}", len(states)) as show:
            for number, task in enumerate(self._tasks(states), start=1):
                if task.has_work:
                    return True
                show(number)
        return False

    def _states(self) -> list[TaskState]:
        """The tasks that have anything drawn on them."""
        states = task_states(self._client, self._project.id)
        return [one for one in states if one.is_begun or one.has_draft or one.predictions]

    def _tasks(self, states: Sequence[TaskState]) -> Iterator[RelabelledTask]:
        ids = [state.id for state in states]
        drafts = frozenset(state.id for state in states if state.has_draft)
        for start in range(0, len(ids), _AT_ONCE):
            yield from self._read(ids[start : start + _AT_ONCE], drafts)

    def _read(self, ids: Sequence[int], drafts: frozenset[int]) -> Iterator[RelabelledTask]:
        return tasks_to_relabel(
            self._client, self._project, self._renaming, ids, with_drafts=drafts
        )

    def _rename(self, task: RelabelledTask) -> None:
        if not task.has_work:
            return
        done, left = self.done, 0
        if not self._is_dry_run:
            # Read again: what an annotator saved in the meantime must not be written over.
            drafts = frozenset((task.id,)) if task.drafts or task.held else frozenset[int]()
            task = next(self._read([task.id], drafts), RelabelledTask(task.id))
            self._write(task)
            # Saved like others, they would count as looked at. Their prediction has the name now.
            unseen, mine = task.unseen, (self._client, self._project, self._copied)
            left = len(copy_again(*mine, task.id, unseen)) if unseen else 0
        done.tasks += 1
        done.annotations += len(task.annotations)
        done.drafts += len(task.drafts)
        done.predictions += len(task.predictions)
        done.held += len(task.held)
        done.copies += len(task.unseen) - left
        done.unseen += left

    def _write(self, task: RelabelledTask) -> None:
        for annotation in task.annotations:
            self._write_annotation(task, annotation)
        for draft in task.drafts:
            save_draft(self._client, draft)
        for prediction in task.predictions:
            save_prediction(self._client, task.id, prediction)

    def _write_annotation(self, task: RelabelledTask, annotation: Renamed) -> None:
        """Saves an annotation; the journal learns that it is no new correction.

        An annotation that the journal does not have, or has in another state, is one.
        """
        heads = self._repository.heads(self._project.id, task_id=task.id)
        before = next((head for head in heads if head.annotation_id == annotation.id), None)
        event = save_annotation(self._client, self._project, task, annotation)
        store = self._repository.store
        is_known = (
            before is not None
            and annotation.before is not None
            and not before.is_deleted
            and is_journalled(store, annotation.before, before)
        )
        if before is not None and is_known:
            store.record_relabelling(event, before=before.key)


def _tell(done: Relabelling, renaming: LabelRenaming, project: int, *, dry_run: bool) -> None:
    would = "would be renamed" if dry_run else "are renamed"
    typer.echo(
        f"{renaming.old!r} is {renaming.new!r} in project {project}: {done.annotations} "
        f"annotations, {done.drafts} drafts and {done.predictions} stored predictions {would}."
    )
    if done.copies:
        again = "would be copied again" if dry_run else "are copied again"
        typer.echo(f"{done.copies} copies of predictions that nobody has looked at {again}.")
    if done.held:
        typer.echo(
            f"{done.held} annotations have unsaved changes of an annotator, which saving would "
            "throw away. The new name is in these changes: it comes when they are submitted."
        )
    if done.unseen:
        typer.echo(
            f"{done.unseen} annotations that nobody has looked at are copies of predictions that "
            "cannot be copied again; saved by this command, they would count as corrections. "
            "Submit or delete them."
        )
    for task_id, reason in sorted(done.failures.items())[:_SHOWN_FAILURES]:
        typer.secho(f"task {task_id} failed: {reason}", fg=typer.colors.RED, err=True)
    if done.is_stopped or done.failures:
        typer.echo("Run the same command again to continue.")
    elif not dry_run:
        typer.echo(
            f"What was learned stays: {renaming.old!r} means {renaming.new!r} from now on, so that "
            "predictions show the new name. No training is started. Annotators who have a task "
            "open should load it again."
        )
