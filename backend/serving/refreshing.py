"""After a promotion: predicts again what nobody has begun, so that the order of tasks is fresh.

A thread that asks Label Studio for untouched tasks, has them predicted behind everything else, and
pushes each prediction with its score and its place among groups that look alike. It keeps no list
of its own: what has a prediction of the version is left out by Label Studio, so a restart goes on
where the last process stopped. A newer version ends the pass at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from backend.errors import BackendError, LabelStudioError
from backend.label_schema import LabelSchema
from backend.serving.descriptors import Descriptors
from backend.serving.jobs import PredictionResult
from backend.storage.versions import AdapterVersion
from backend.types import Task
from calico_model.inference.diversity import Clusters, neighbours
from calico_model.types import Vector

_log = logging.getLogger(__name__)
_MOST_CLUSTERS, _MOST_NEIGHBOURS = 16, 5
_POLL_S = 0.25


@dataclass(frozen=True)
class Place:
    """Where a task stands among those that look like it; cluster None if nothing is known."""

    cluster: int | None = None
    neighbors: tuple[int, ...] = ()


@dataclass(frozen=True)
class Pending:
    """Tasks that wait for a prediction of a version.

    Attributes:
        tasks: the next ones, by rising id.
        schema: of the project's labeling config.
        total: how many there are.
    """

    tasks: tuple[Task, ...]
    schema: LabelSchema
    total: int


class Studio(Protocol):
    """Label Studio as refreshing sees it; every call may raise LabelStudioError."""

    def pending(self, project_id: int, version: str, after: int) -> Pending:
        """The next tasks nobody has begun and this version has not predicted."""

    def is_pending(self, project_id: int, version: str, task_id: int) -> bool:
        """Whether that still holds for one task."""

    def push(self, task: Task, answer: PredictionResult, place: Place) -> None:
        """Stores a prediction."""

    def show(self, project_id: int, version: str) -> bool:
        """Makes the order of tasks follow the scores of a version; whether it does."""


class Ahead(Protocol):
    """The service that predicts; see `PredictionService`."""

    def current(self, project_id: int | None) -> AdapterVersion | None:
        """The version that answers a project now."""

    def predict_ahead(
        self, task: Task, schema: LabelSchema, version: AdapterVersion | None
    ) -> PredictionResult | None:
        """Predicts one task behind everything else."""

    @property
    def quiet_s(self) -> float:
        """Seconds since anybody waited for a prediction."""


@dataclass(frozen=True)
class RefreshStatus:
    """How a pass stands.

    Attributes:
        version: that predicts.
        done: tasks that were pushed.
        total: tasks there were to do.
        is_running: whether it goes on.
    """

    version: str
    done: int
    total: int
    is_running: bool


class Refresher:
    """The thread.

    Args:
        projects: every project there is.
        service: predicts.
        studio: Label Studio.
        descriptors: how tasks look.
        base: names the encoder descriptors are of, None while there is none.
        pause_s: between two tasks.
        quiet_s: how long nobody may have waited for a prediction before one is made ahead.
        every_s: pause between looks at the versions.
        again_s: after which a finished project is looked at again, for tasks that are new.
    """

    def __init__(
        self,
        projects: Callable[[], Iterable[int]],
        service: Ahead,
        studio: Studio,
        descriptors: Descriptors,
        *,
        base: Callable[[], str | None],
        pause_s: float = 0.1,
        quiet_s: float = 2.0,
        every_s: float = 3.0,
        again_s: float = 300.0,
    ) -> None:
        self._projects, self._service, self._studio = projects, service, studio
        self._descriptors, self._base = descriptors, base
        self._pause_s, self._quiet_s = pause_s, quiet_s
        self._every_s, self._again_s = every_s, again_s
        self._status: dict[int, RefreshStatus] = {}
        self._not_before: dict[int, tuple[str, float]] = {}
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="refresher", daemon=True)

    def start(self) -> None:
        """Begins; returns at once."""
        self._thread.start()

    def close(self) -> None:
        """Stops after the task under way."""
        self._is_closed.set()

    def status(self, project_id: int) -> RefreshStatus | None:
        """How the last pass of a project stands, None if there was none."""
        return self._status.get(project_id)

    def round(self) -> int:
        """Looks at every project once; returns how many tasks were pushed."""
        pushed = 0
        for project_id in self._projects():
            if self._is_closed.is_set():
                break
            version = self._service.current(project_id)
            if version is None or not self._is_due(project_id, version.id):
                continue
            wait_s = self._again_s
            try:
                pushed += self._refresh(project_id, version)
            except BackendError as error:
                _log.warning(
                    "project %s cannot be predicted again: %s",
                    project_id,
                    error,
                    extra={"event": "refresh_failed", "project": project_id},
                )
                wait_s = min(self._again_s, 30.0)
            self._not_before[project_id] = (version.id, time.monotonic() + wait_s)
            self._end(project_id)
        return pushed

    def _is_due(self, project_id: int, version: str) -> bool:
        known, not_before = self._not_before.get(project_id, ("", 0.0))
        return known != version or time.monotonic() >= not_before

    def _refresh(self, project_id: int, version: AdapterVersion) -> int:
        """One pass over a project; returns how many tasks were pushed."""
        looks = _Looks(self._descriptors, project_id, self._base() or "")
        after = done = total = 0
        is_shown = self._studio.show(project_id, version.id)
        while (page := self._studio.pending(project_id, version.id, after)).tasks:
            if max(task.id or 0 for task in page.tasks) <= after:
                raise LabelStudioError(f"asked for tasks after {after}, got earlier ones")
            total = max(total, done + page.total)
            for task in page.tasks:
                self._status[project_id] = RefreshStatus(version.id, done, total, True)
                if not self._may_go_on(project_id, version):
                    return done
                after = max(after, task.id or 0)
                done += self._predict(project_id, version, task, page.schema, looks)
            # Label Studio knows the scores of a version once there are some.
            is_shown = is_shown or self._studio.show(project_id, version.id)
        if total:
            self._status[project_id] = RefreshStatus(version.id, done, total, False)
            _log.info(
                "%d of %d tasks predicted again",
                done,
                total,
                extra={"event": "refreshed", "project": project_id, "version": version.id},
            )
        return done

    def _may_go_on(self, project_id: int, version: AdapterVersion) -> bool:
        """Waits until nobody else needs the model; False once the pass is pointless."""
        self._is_closed.wait(self._pause_s)
        while self._service.quiet_s < self._quiet_s and not self._is_closed.is_set():
            self._is_closed.wait(_POLL_S)
        current = self._service.current(project_id)
        return not self._is_closed.is_set() and current is not None and current.id == version.id

    def _predict(
        self,
        project_id: int,
        version: AdapterVersion,
        task: Task,
        schema: LabelSchema,
        looks: _Looks,
    ) -> int:
        """Predicts and pushes one task; returns 1 if it has a new prediction."""
        if task.id is None or task.problem is not None:
            return 0
        answer = self._service.predict_ahead(task, schema, version)
        if answer is None or answer.problem is not None or answer.version != version.id:
            return 0
        place = looks.place(task.id, answer.look)
        # Somebody may have opened it while it was predicted.
        if not self._studio.is_pending(project_id, version.id, task.id):
            return 0
        self._studio.push(task, answer, place)
        return 1

    def _end(self, project_id: int) -> None:
        status = self._status.get(project_id)
        if status is not None:
            self._status[project_id] = replace(status, is_running=False)

    def _run(self) -> None:
        while not self._is_closed.is_set():
            try:
                self.round()
            except BackendError as error:
                _log.warning("refreshing: %s", error, extra={"event": "refresh_failed"})
            except Exception:  # the next round may do better; without this thread none would
                _log.exception("refreshing failed", extra={"event": "refresh_failed"})
            self._is_closed.wait(self._every_s)


class _Looks:
    """How the tasks of one project look, as far as they were seen."""

    def __init__(self, descriptors: Descriptors, project_id: int, base: str) -> None:
        self._descriptors, self._project_id, self._base = descriptors, project_id, base
        self._known: dict[int, Vector] = descriptors.load(project_id, base)
        self._clusters = Clusters(_MOST_CLUSTERS)
        self._placed = {task: self._clusters.place(one) for task, one in self._known.items()}

    def place(self, task_id: int, look: Vector | None) -> Place:
        """Returns where a task stands, and remembers how it looks."""
        if look is None:
            return Place()
        nearest = neighbours(
            look,
            {task: one for task, one in self._known.items() if task != task_id},
            most=_MOST_NEIGHBOURS,
        )
        if task_id not in self._placed:
            self._descriptors.keep(self._project_id, task_id, self._base, look)
            self._known[task_id] = look
            self._placed[task_id] = self._clusters.place(look)
        return Place(self._placed[task_id], nearest)
