"""Keeps one prediction of a version on a task, whichever way it came there.

Label Studio stores every answer it gets. Two people who retrieve predictions at the same time, or
an answer that is pushed while Label Studio asks again, leave two predictions of one version. What
this process hands out is counted; a task that got the same version twice is looked at a little
later, when Label Studio has stored both, and all but the newest are deleted.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from backend.errors import BackendError
from backend.types import Task

_log = logging.getLogger(__name__)
_MOST_KNOWN = 100_000


class DuplicateWatch:
    """A thread that deletes duplicates where they may have come about.

    Args:
        delete: deletes the duplicates of a project's task in Label Studio, returns how many; may
            raise BackendError.
        after_s: how long Label Studio may take to store an answer.
        opened_after_s: the same for a task that was just opened: an annotator may look at any of
            its predictions, and can only submit one that is still there.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        delete: Callable[[int, int], int],
        *,
        after_s: float = 30.0,
        opened_after_s: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._delete, self._clock = delete, clock
        self._after_s, self._opened_after_s = after_s, opened_after_s
        self._changed = threading.Condition()
        self._given: OrderedDict[tuple[int, int, str], None] = OrderedDict()
        self._opened: OrderedDict[int, float] = OrderedDict()
        self._due: list[tuple[float, int, int]] = []
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="duplicates", daemon=True)

    def start(self) -> None:
        """Starts the thread; returns at once."""
        self._thread.start()

    def close(self) -> None:
        """Stops after the task under way."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def opened(self, task: Task) -> None:
        """Notes that an annotator has opened a task."""
        if task.id is not None:
            with self._changed:
                self._opened[task.id] = self._clock()
                self._opened.move_to_end(task.id)
                while len(self._opened) > _MOST_KNOWN:
                    self._opened.popitem(last=False)

    def given(self, task: Task, version: str | None) -> None:
        """Notes that Label Studio was given a prediction of a version to store."""
        if task.id is None or task.project_id is None or version is None:
            return
        key = (task.project_id, task.id, version)
        with self._changed:
            if key in self._given:
                self._schedule(task.project_id, task.id)
            self._given[key] = None
            self._given.move_to_end(key)
            while len(self._given) > _MOST_KNOWN:
                self._given.popitem(last=False)

    def look(self) -> float | None:
        """Looks at the tasks that are due; returns seconds until the next one, None without."""
        while True:
            with self._changed:
                if not self._due:
                    return None
                if (wait_s := self._due[0][0] - self._clock()) > 0:
                    return wait_s
                _, project_id, task_id = heapq.heappop(self._due)
                opened_at = self._opened.get(task_id)
                if opened_at is not None and self._clock() - opened_at < self._opened_after_s:
                    due = opened_at + self._opened_after_s
                    heapq.heappush(self._due, (due, project_id, task_id))
                    continue
            self._look_at(project_id, task_id)

    def _schedule(self, project_id: int, task_id: int) -> None:
        if any(place[1:] == (project_id, task_id) for place in self._due):
            return
        heapq.heappush(self._due, (self._clock() + self._after_s, project_id, task_id))
        self._changed.notify_all()

    def _look_at(self, project_id: int, task_id: int) -> None:
        try:
            deleted = self._delete(project_id, task_id)
        except BackendError as error:
            _log.warning(
                "duplicates of task %s: %s",
                task_id,
                error,
                extra={"event": "duplicates_failed", "project": project_id, "task": task_id},
            )
            return
        if deleted:
            _log.info(
                "%d predictions that were stored twice are deleted",
                deleted,
                extra={"event": "duplicates_deleted", "project": project_id, "task": task_id},
            )

    def _run(self) -> None:
        while not self._is_closed:
            try:
                wait_s = self.look()
            except Exception:  # without this thread nobody would look again
                _log.exception("duplicates", extra={"event": "duplicates_failed"})
                wait_s = self._after_s
            with self._changed:
                if not self._is_closed:
                    self._changed.wait(wait_s)
