"""Images of opened and upcoming tasks are encoded before anybody clicks on them.

A thread that works only while nobody waits for a prediction, one image at a time. First the task
that was opened, which is predicted, too: what the model finds by itself is what a click may mean.
Then the next ones of its project, until their pixels reach a ceiling.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol

from backend.errors import BackendError
from backend.types import Task
from calico_model.errors import CalicoError

_log = logging.getLogger(__name__)
_POLL_S = 0.05
_MOST_OPENED = 64


class Warming(Protocol):
    """What looks at tasks; see `TaskPredictor`."""

    def warm(self, task: Task, step_aside: Callable[[], None]) -> int:
        """Fetches and encodes a task's images; returns the bytes of their pixels."""

    def foresee(self, task: Task, step_aside: Callable[[], None]) -> None:
        """Predicts a task that is warm, if that was not done lately."""


class Waited(Protocol):
    """Who knows whether anybody waits; see `PredictionService`."""

    @property
    def quiet_s(self) -> float:
        """Seconds since anybody waited for a prediction."""


class Prewarmer:
    """The thread.

    Args:
        looking: encodes and predicts.
        service: steps before it.
        upcoming: the tasks an annotator of a project opens after one, in order; may raise
            LabelStudioError. None where nobody can tell.
        max_bytes: pixels fetched ahead of an opened task; 0 prefetches nothing.
        quiet_s: how long nobody may have waited for a prediction before an image is encoded.
    """

    def __init__(
        self,
        task_predictor: Warming,
        service: Waited,
        upcoming: Callable[[int, int], Iterable[Task]] | None,
        *,
        max_bytes: int,
        quiet_s: float = 0.5,
    ) -> None:
        self._task_predictor, self._service, self._upcoming = task_predictor, service, upcoming
        self._max_bytes, self._quiet_s = max_bytes, quiet_s
        self._opened: queue.Queue[Task | None] = queue.Queue(_MOST_OPENED)
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prewarmer", daemon=True)
        self._thread.start()

    def open(self, task: Task) -> None:
        """Says that an annotator opened a task; returns at once."""
        try:
            self._opened.put_nowait(task)
        except queue.Full:
            _log.debug("too many tasks opened at once", extra={"event": "prewarm_full"})

    def close(self) -> None:
        """Stops after the image under way."""
        self._is_closed.set()
        with suppress(queue.Full):  # then the thread wakes by what is there
            self._opened.put_nowait(None)

    def _run(self) -> None:
        while not self._is_closed.is_set() and (task := self._opened.get()) is not None:
            try:
                self._warm(task)
            except _Closed:
                return
            except Exception:  # ahead of time or not at all: nobody waits for it
                _log.exception("prewarming failed", extra={"event": "prewarm_failed"})

    def _warm(self, opened: Task) -> None:
        self._encode(opened, is_opened=True)
        if self._upcoming is None or not self._max_bytes:
            return
        if opened.project_id is None or opened.id is None:
            return
        self._step_aside()
        try:
            following = self._upcoming(opened.project_id, opened.id)
        except BackendError as error:
            _log.info("upcoming tasks unknown: %s", error, extra={"event": "prewarm_unknown"})
            return
        used = 0
        for task in following:
            if used >= self._max_bytes or not self._opened.empty():
                return  # whoever opened another task comes first
            used += self._encode(task)

    def _encode(self, task: Task, *, is_opened: bool = False) -> int:
        if task.problem is not None:
            return 0
        self._step_aside()
        try:
            used = self._task_predictor.warm(task, self._step_aside)
            if is_opened:
                self._task_predictor.foresee(task, self._step_aside)
        except (BackendError, CalicoError) as error:
            _log.info("not prewarmed: %s", error, extra={"event": "prewarm_skipped"})
            return 0
        return used

    def _step_aside(self) -> None:
        """Waits until nobody has waited for a prediction for a moment."""
        while self._service.quiet_s < self._quiet_s:
            if self._is_closed.wait(_POLL_S):
                raise _Closed
        if self._is_closed.is_set():
            raise _Closed


class _Closed(Exception):
    """The thread is to end."""
