"""After a promotion: predicts untouched tasks again, so that their order in Label Studio is fresh.

A thread asks Label Studio for the tasks nobody has begun, has each predicted behind everything
else, and pushes the prediction with its score and the task's place among those that look alike. It
keeps no list of its own: Label Studio leaves out tasks that have a prediction of the version, so a
restart goes on where the last process stopped. A newer version ends the pass at once.

A pass over a project of half a million tasks takes days of a GPU, and the next version makes it
worthless. So a limit may be set: the tasks the model is least sure of come first, because they are
annotated next; all others wait for hours in which nobody works.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from sqlalchemy import Connection, delete, select

from backend.clock import now_us
from backend.errors import BackendError, LabelStudioError
from backend.label_schema import LabelSchema
from backend.serving.refresh_progress import RefreshProgress, RefreshStatus
from backend.serving.service import PredictionService
from backend.serving.studio import StudioTasks, TaskPlace
from backend.storage.store import Store
from backend.storage.tables import descriptor
from backend.storage.versions import AdapterVersion
from backend.types import Task
from calico_model.inference.diversity import Clusters, neighbours
from calico_model.types import Vector

_log = logging.getLogger(__name__)
_MOST_CLUSTERS, _MOST_NEIGHBOURS = 16, 5
_MOST_DESCRIPTORS = 50_000  # of one project; neighbours of more are not worth the memory
_POLL_S = 0.25
_USUAL_AT_ONCE = 200
_OTHERS_KEPT_US = 86_400_000_000
_WRITE_TIMEOUT_S = 30.0


class Refresher:
    """The thread.

    Args:
        projects: returns every project there is.
        service: predicts.
        studio: Label Studio.
        descriptors: how tasks look.
        base: returns the version of the encoders, None while they load.
        pause_s: between two tasks.
        quiet_s: how long nobody may have waited for a prediction before a task is predicted.
        every_s: pause between two rounds over all projects.
        again_s: after which a finished project is asked again, for tasks that are new.
        leads: whether this server is the one of several that predicts again.
        window: how many tasks may be predicted at which hours.
        progress: keeps how each pass stands.
    """

    def __init__(
        self,
        projects: Callable[[], Iterable[int]],
        service: PredictionService,
        studio: StudioTasks,
        descriptors: TaskDescriptors,
        *,
        base: Callable[[], str | None],
        pause_s: float = 0.1,
        quiet_s: float = 2.0,
        every_s: float = 3.0,
        again_s: float = 300.0,
        leads: Callable[[], bool] = lambda: True,
        window: RefreshWindow | None = None,
        progress: RefreshProgress | None = None,
    ) -> None:
        self._window = window or RefreshWindow()
        self._progress = progress or RefreshProgress()
        self._projects, self._service, self._studio = projects, service, studio
        self._descriptors, self._base = descriptors, base
        self._pause_s, self._quiet_s = pause_s, quiet_s
        self._every_s, self._again_s, self._leads = every_s, again_s, leads
        self._running: RefreshStatus | None = None
        self._not_before: dict[int, tuple[str, float]] = {}
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="refresher", daemon=True)

    def start(self) -> None:
        """Starts the thread; returns at once."""
        self._thread.start()

    def close(self) -> None:
        """Stops after the task under way."""
        self._is_closed.set()

    def status(self, project_id: int) -> RefreshStatus | None:
        """Returns how the last pass of a project stands, None if there was none."""
        return self._progress.get(project_id)

    def round(self) -> int:
        """Refreshes every project that is due; returns how many predictions were pushed."""
        pushed = 0
        for project_id in self._projects():
            if self._is_closed.is_set() or not self._leads():
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
        """Runs one pass over a project; returns how many predictions were pushed."""
        places = _TaskPlaces(self._descriptors, project_id, self._base() or "")
        if not self._window.is_open:
            return self._refresh_first(project_id, version, places)
        after = done = total = 0
        is_shown = self._studio.show(project_id, version.id)
        while (page := self._studio.pending(project_id, version.id, after)).tasks:
            if max(task.id or 0 for task in page.tasks) <= after:
                raise LabelStudioError(f"asked for tasks after {after}, got earlier ones")
            total = max(total, done + page.total)
            for task in page.tasks:
                self._tell(project_id, RefreshStatus(version.id, done, total, True))
                if not self._may_go_on(project_id, version) or not self._window.is_open:
                    return done
                after = max(after, task.id or 0)
                done += self._predict(project_id, version, task, page.schema, places)
            # Label Studio knows the scores of a version once there are some.
            is_shown = is_shown or self._studio.show(project_id, version.id)
        if total:
            self._tell(project_id, RefreshStatus(version.id, done, total, False))
            _log.info(
                "%d of %d tasks predicted again",
                done,
                total,
                extra={"event": "refreshed", "project": project_id, "version": version.id},
            )
        return done

    def _refresh_first(self, project_id: int, version: AdapterVersion, places: _TaskPlaces) -> int:
        """Predicts the least certain tasks; returns how many predictions were pushed."""
        left = self._window.left(project_id, version.id)
        if not left:
            return 0
        # Before the version is shown: afterwards Label Studio knows no score of these tasks.
        page = self._studio.least_certain(project_id, version.id, left)
        self._studio.show(project_id, version.id)
        done, total = 0, len(page.tasks)
        for task in page.tasks:
            self._tell(project_id, RefreshStatus(version.id, done, total, True))
            if not self._may_go_on(project_id, version):
                return done
            self._window.count(project_id, version.id)
            done += self._predict(project_id, version, task, page.schema, places)
        if total:
            self._tell(project_id, RefreshStatus(version.id, done, total, False))
            self._studio.show(project_id, version.id)
        return done

    def _may_go_on(self, project_id: int, version: AdapterVersion) -> bool:
        """Waits until nobody else needs the model; False once the pass is pointless."""
        self._is_closed.wait(self._pause_s)
        while self._service.quiet_s < self._quiet_s and not self._is_closed.is_set():
            self._is_closed.wait(_POLL_S)
        current = self._service.current(project_id)
        is_current = current is not None and current.id == version.id
        return is_current and not self._is_closed.is_set() and self._leads()

    def _predict(
        self,
        project_id: int,
        version: AdapterVersion,
        task: Task,
        schema: LabelSchema,
        places: _TaskPlaces,
    ) -> int:
        """Predicts and pushes one task; returns 1 if it has a new prediction, else 0."""
        if task.id is None or task.problem is not None:
            return 0
        result = self._service.predict_ahead(task, schema, version)
        if result is None or result.problem is not None or result.version != version.id:
            return 0
        place = places.place(task.id, result.descriptor)
        # Somebody may have opened it while it was predicted, or another server leads by now.
        if not self._studio.is_pending(project_id, version.id, task.id) or not self._leads():
            return 0
        self._studio.push(task, result, place)
        return 1

    def _tell(self, project_id: int, status: RefreshStatus) -> None:
        self._running = status if status.is_running else None
        self._progress.put(project_id, status)

    def _end(self, project_id: int) -> None:
        """Says that a pass which ended early does not go on."""
        if self._running is not None:
            self._tell(project_id, replace(self._running, is_running=False))

    def _run(self) -> None:
        while not self._is_closed.is_set():
            try:
                self.round()
            except BackendError as error:
                _log.warning("refreshing: %s", error, extra={"event": "refresh_failed"})
            except Exception:  # the next round may do better; without this thread none would
                _log.exception("refreshing failed", extra={"event": "refresh_failed"})
            self._is_closed.wait(self._every_s)


class RefreshWindow:
    """Decides how many tasks of a project may be predicted again now. Used by one thread.

    Args:
        at_once: tasks per project and version at any hour; None allows all.
        hours: first hour, and the hour after the last one, of the day in UTC, in which all others
            may follow; (20, 6) passes midnight. None is no hour at all.
        now: returns the present time in UTC.
    """

    def __init__(
        self,
        at_once: int | None = None,
        hours: tuple[int, int] | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if at_once is None and hours is not None:
            at_once = _USUAL_AT_ONCE
        self._at_once, self._hours, self._now = at_once, hours, now
        self._done: dict[int, tuple[str, int]] = {}

    @property
    def is_open(self) -> bool:
        """Whether every task may be predicted now."""
        if self._at_once is None:
            return True
        if self._hours is None:
            return False
        first, end = self._hours
        hour = self._now().hour
        return first <= hour < end if first <= end else hour >= first or hour < end

    def left(self, project_id: int, version: str) -> int:
        """Returns how many tasks of a project may still be predicted outside of the hours."""
        known, done = self._done.get(project_id, ("", 0))
        return max(0, (self._at_once or 0) - (done if known == version else 0))

    def count(self, project_id: int, version: str) -> None:
        """Counts one task that was predicted outside of the hours."""
        known, done = self._done.get(project_id, ("", 0))
        self._done[project_id] = (version, done + 1 if known == version else 1)


class TaskDescriptors:
    """How tasks look, kept in the database for the next pass. Threads may share it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def load(self, project_id: int, base: str) -> dict[int, Vector]:
        """Returns the descriptors of a project that one base's encoders made, by task.

        In the order they were kept; each is a (d,) float32 vector of length 1.
        """
        columns = descriptor.c
        query = (
            select(columns.task_id, columns.vector)
            .where(columns.project_id == project_id, columns.base == base)
            .order_by(columns.kept_at_us, columns.task_id)
            .limit(_MOST_DESCRIPTORS)
        )
        with self._store.read() as connection:
            return {
                row.task_id: np.frombuffer(row.vector, np.float32)
                for row in connection.execute(query)
            }

    def keep(self, project_id: int, task_id: int, base: str, vector: Vector) -> None:
        """Keeps the descriptor of a task in place of an older one by the same encoders."""
        row = self._store.insert(descriptor).values(
            project_id=project_id,
            task_id=task_id,
            base=base,
            vector=vector.astype(np.float32).tobytes(),
            kept_at_us=now_us(),
        )
        newest = {name: row.excluded[name] for name in ("vector", "kept_at_us")}
        place = ["project_id", "task_id", "base"]
        upsert = row.on_conflict_do_update(index_elements=place, set_=newest)
        columns = descriptor.c
        # Those of other weights stay for a day: during an upgrade both are in use.
        others = delete(descriptor).where(
            columns.project_id == project_id,
            columns.task_id == task_id,
            columns.base != base,
            columns.kept_at_us < now_us() - _OTHERS_KEPT_US,
        )

        def change(connection: Connection) -> None:
            connection.execute(upsert)
            connection.execute(others)

        self._store.write(change, timeout_s=_WRITE_TIMEOUT_S)


class _TaskPlaces:
    """The clusters and neighbours of one project's tasks, as far as their looks are known."""

    def __init__(self, descriptors: TaskDescriptors, project_id: int, base: str) -> None:
        self._descriptors, self._project_id, self._base = descriptors, project_id, base
        self._known: dict[int, Vector] = descriptors.load(project_id, base)
        self._clusters = Clusters(_MOST_CLUSTERS)
        self._placed = {task: self._clusters.place(vector) for task, vector in self._known.items()}

    def place(self, task_id: int, vector: Vector | None) -> TaskPlace:
        """Returns the place of a task, and remembers how it looks."""
        if vector is None:
            return TaskPlace()
        others = {task: known for task, known in self._known.items() if task != task_id}
        nearest = neighbours(vector, others, most=_MOST_NEIGHBOURS)
        if task_id not in self._placed:
            self._descriptors.keep(self._project_id, task_id, self._base, vector)
            self._known[task_id] = vector
            self._placed[task_id] = self._clusters.place(vector)
        return TaskPlace(self._placed[task_id], nearest)
