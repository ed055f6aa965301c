"""`calico predict-all`: predicts every task of a project and says which failed, and why.

Asks the backend directly, a few tasks at a time, and stores each prediction in Label Studio. Label
Studio's own *Retrieve Predictions* gives up after 100 seconds, shows no progress, and stores a task
that failed as an empty prediction.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import typer
from rich.table import Table

from backend.cli.connect import (
    BackendUrlOption,
    Ends,
    KeyOption,
    PasswordOption,
    UrlOption,
    UserOption,
    chosen_ends,
)
from backend.cli.progress import progress_bar, stop_requests, training_bar
from backend.cli.tables import print_fitted
from backend.errors import BackendError, LabelStudioError
from backend.label_studio.backend_client import BackendAnswer, BackendClient
from backend.label_studio.client import LabelStudioClient, LabelStudioProject
from backend.label_studio.predictions import (
    TaskState,
    delete_duplicates,
    has_prediction,
    stored_predictions,
    task_states,
)
from backend.label_studio.untouched import show_version

_AT_ONCE = 4
_LOADING_S, _POLL_S = 300.0, 1.0
_SHOWN_FAILURES = 20


@dataclass
class Outcome:
    """What became of the tasks.

    Attributes:
        predicted: tasks with a new prediction.
        empty: tasks that were answered now, and on which nothing is outlined.
        kept: tasks that had a prediction of the version already.
        failures: reason by task.
        duplicates: predictions of one version that were stored twice, and are deleted.
        is_stopped: Ctrl-C ended the work early.
    """

    predicted: int = 0
    empty: int = 0
    kept: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    duplicates: int = 0
    is_stopped: bool = False


def predict_all(
    project: Annotated[int, typer.Option(help="Project id, the number in its address.")],
    again: Annotated[
        bool,
        typer.Option("--again", help="Also tasks that have a prediction of this version; replace."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what there is to do.")
    ] = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
    backend_url: BackendUrlOption = None,
    user: UserOption = None,
    password: PasswordOption = None,
) -> None:
    """Predict every task of a project, and say which failed and why.

    Tasks that have a prediction of the version that is served now are left alone, so a run that
    was stopped continues where it was. Tasks of which Label Studio stores an empty prediction are
    asked for again: if they failed, the reason is listed.

    Example: calico predict-all --project 7

    The last line of the output is JSON. The exit status is 1 when tasks failed.
    """
    ends = chosen_ends(url, api_key, user, password, backend_url)
    began = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(closing(ends.client))
        # Asked first: a wrong token or project is told also while no backend answers.
        held = ends.client.project(project)
        backend = stack.enter_context(closing(find_backend(ends, project, backend_url)))
        version = backend.version(project, held.label_config)
        states = read_states(ends, backend, project, version, is_dry_run=dry_run)
        todo = [s for s in states if again or _is_due(s, version)]
        outcome = Outcome(kept=len(states) - len(todo))
        if not dry_run:
            work = _Work(ends.client, backend, held, version, outcome)
            work.predict(todo, stop_requests())
            touched = [s for s in states if s.has_duplicates] + ([*todo] if again else [])
            outcome.duplicates = work.delete_duplicates(touched)
    _tell(outcome, len(states), len(todo), version, dry_run=dry_run)
    report: dict[str, Any] = {
        "project": project,
        "version": version,
        "tasks": len(states),
        "to_predict": len(todo),
        "predicted": outcome.predicted,
        "empty": outcome.empty,
        "already": outcome.kept,
        "failed": len(outcome.failures),
        "duplicates_deleted": outcome.duplicates,
        "stopped": outcome.is_stopped,
        "dry_run": dry_run,
        "seconds": round(time.monotonic() - began, 1),
        "failures": [{"task": t, "reason": why} for t, why in sorted(outcome.failures.items())],
    }
    typer.echo(json.dumps(report))
    if outcome.failures:
        raise typer.Exit(1)


def find_backend(ends: Ends, project_id: int, given: str | None) -> BackendClient:
    """Returns the backend of a project, once its weights are loaded.

    It is where the option says, else where Label Studio has it, else where the settings have it.

    Raises:
        BackendError: none answers, or its weights cannot be used.
    """
    registered = [] if given else [b.url for b in ends.client.ml_backends(project_id)]
    places = list(dict.fromkeys(place.rstrip("/") for place in (*registered, ends.backend_url)))
    for place in places:
        backend = BackendClient(place, ends.credentials)
        if backend.model_state() is not None:
            _wait_for_model(backend)
            return backend
        backend.close()
    raise BackendError(
        f"no backend answers at {' or '.join(places)}; start one with `calico serve`, or say "
        "where it is with --backend-url"
    )


def read_states(
    ends: Ends, backend: BackendClient, project_id: int, version: str, *, is_dry_run: bool
) -> list[TaskState]:
    """Returns the tasks of a project with their scores by a version.

    Makes Label Studio order tasks by the scores of this version, unless it is a dry run. Where
    Label Studio shows other scores, each task's own predictions are read.

    Raises:
        LabelStudioError: refused or not reached.
    """
    client = ends.client
    if not is_dry_run:
        show_version(
            client, project_id, version, ours=backend.versions(), credentials=ends.credentials
        )
    is_shown = client.project(project_id).model_version == version
    states: list[TaskState] = []
    with progress_bar(f"Reading the tasks of project {project_id}", None) as show:
        for state in task_states(client, project_id):
            states.append(state if is_shown else _scored(client, state, version))
            show(len(states))
    return states


def _scored(client: LabelStudioClient, state: TaskState, version: str) -> TaskState:
    """Reads a task's score, and its versions where Label Studio does not show them all."""
    if state.versions is not None and version not in state.versions:
        return replace(state, score=None)
    found = stored_predictions(client, state.id)
    scores = [one.score for one in found if one.version == version]
    return replace(
        state,
        versions=frozenset(one.version for one in found),
        score=scores[-1] if scores else None,
    )


def _wait_for_model(backend: BackendClient) -> None:
    deadline = time.monotonic() + _LOADING_S
    with progress_bar("Waiting for the weights", None):
        while (state := backend.model_state()) != "ready":
            if state == "failed" or time.monotonic() > deadline:
                raise BackendError(
                    f"the backend at {backend.url} cannot use its weights; its log says why"
                )
            time.sleep(_POLL_S)


def _is_due(state: TaskState, version: str) -> bool:
    if state.versions is None:  # Label Studio does not show them all, but knows the score
        return not state.score
    # Without regions the score is 0: nothing was found, or the task failed.
    return version not in state.versions or state.score == 0.0


class _Work:
    """One run over the tasks of a project."""

    def __init__(
        self,
        client: LabelStudioClient,
        backend: BackendClient,
        project: LabelStudioProject,
        version: str,
        outcome: Outcome,
    ) -> None:
        self._client, self._backend, self._project = client, backend, project
        self._version, self._outcome = version, outcome
        self._late: set[int] = set()

    def predict(self, todo: Sequence[TaskState], is_stopping: Callable[[], bool]) -> None:
        """Predicts tasks until all are done or Ctrl-C is pressed."""
        waiting, began = deque(todo), time.monotonic()
        with training_bar("Predicting") as show:
            while waiting:
                if is_stopping():
                    self._outcome.is_stopped = True
                    return
                chunk = [waiting.popleft() for _ in range(min(_AT_ONCE, len(waiting)))]
                answers = self._backend.predict(self._project.id, self._project.label_config, chunk)
                for state, answer in zip(chunk, answers, strict=True):
                    if answer.is_finished:
                        self._finish(state, answer)
                    else:  # the backend goes on and remembers the answer
                        self._late.add(state.id)
                        waiting.append(state)
                if all(state.id in self._late for state in chunk):
                    time.sleep(_POLL_S)
                done = len(todo) - len(waiting)
                show(_pace(done, len(todo), time.monotonic() - began), done, len(todo))

    def delete_duplicates(self, states: Iterable[TaskState]) -> int:
        """Deletes what Label Studio stores twice; returns how many predictions."""
        ours = self._backend.versions() | {self._version}
        ids = sorted({state.id for state in states if state.id not in self._outcome.failures})
        deleted = 0
        if not ids:
            return 0
        with progress_bar("Looking for predictions stored twice", len(ids)) as show:
            for done, task_id in enumerate(ids, start=1):
                deleted += delete_duplicates(self._client, self._project.id, task_id, ours)
                show(done)
        return deleted

    def _finish(self, state: TaskState, answer: BackendAnswer) -> None:
        if answer.problem is not None or answer.regions is None:
            self._outcome.failures[state.id] = answer.problem or "no answer"
            return
        self._outcome.empty += not answer.has_regions
        try:
            if self._is_new(state, answer):
                self._client.create_prediction(
                    state.id, answer.regions, score=answer.score, version=answer.version
                )
                self._outcome.predicted += 1
                self._delete_empty(state, answer)
            else:
                self._outcome.kept += 1
        except LabelStudioError as error:
            self._outcome.failures[state.id] = f"Label Studio did not store it: {error}"

    def _is_new(self, state: TaskState, answer: BackendAnswer) -> bool:
        """Whether Label Studio lacks this answer."""
        if (
            state.id in self._late
            or state.versions is None
            or answer.version not in state.versions  # the backend may have stored it meanwhile
        ):
            return not has_prediction(self._client, state.id, answer.version)
        # It has an empty prediction, or one that is to be replaced, also by an empty one: else
        # regions would stay on show that the version does not find any more.
        return answer.has_regions or bool(state.score)

    def _delete_empty(self, state: TaskState, answer: BackendAnswer) -> None:
        """Has a prediction that was stored empty give way to the one that was found now."""
        if state.versions is None or answer.version not in state.versions:
            return
        found = stored_predictions(self._client, state.id)
        if any(not one.regions and one.version == answer.version for one in found):
            ours: Collection[str] = {answer.version}
            delete_duplicates(self._client, self._project.id, state.id, ours)


def _pace(done: int, total: int, seconds: float) -> str:
    """The work as a heading, with its rate and the time that is left."""
    if not done or seconds < 1:
        return "Predicting"
    left_s = seconds / done * (total - done)
    left = f"{left_s:.0f} s" if left_s < 100 else f"{left_s / 60:.0f} min"
    return f"Predicting, {60 * done / seconds:.0f} tasks a minute, about {left} left"


def _tell(outcome: Outcome, tasks: int, todo: int, version: str, *, dry_run: bool) -> None:
    typer.echo(f"Version: {version}")
    if dry_run:
        typer.echo(f"{todo} of {tasks} tasks would be predicted.")
        return
    counts = [f"{outcome.predicted} of {tasks} tasks are newly predicted"]
    counts += [f"{outcome.kept} had been predicted before"] if outcome.kept else []
    counts += [f"{len(outcome.failures)} failed"] if outcome.failures else []
    typer.echo("; ".join(counts) + ".")
    if outcome.empty:
        typer.echo(
            f"{outcome.empty} show nothing: this version found no part there that it knows. On "
            "photographs it knows the parts of groups that were corrected before."
        )
    if outcome.duplicates:
        typer.echo(f"Earlier predictions of the same version, deleted: {outcome.duplicates}.")
    if outcome.is_stopped:
        typer.echo("Stopped. Run the same command again to continue.")
    if not outcome.failures:
        return
    table = Table("task", "reason", title="Failed", title_justify="left")
    shown = sorted(outcome.failures.items())[:_SHOWN_FAILURES]
    for task_id, reason in shown:
        table.add_row(str(task_id), reason)
    print_fitted(table)
    if len(outcome.failures) > len(shown):
        typer.echo(f"{len(outcome.failures) - len(shown)} more are in the JSON below.")
