"""Encodes images of opened and upcoming tasks before anybody clicks on them.

A thread that works only while nobody waits for a prediction, one image at a time. First the task
that was opened: it is predicted, too, because a click may mean what the model finds by itself. Then
the next tasks of its project, until their pixels reach a ceiling.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

from backend.errors import BackendError
from backend.serving.jobs import PredictsTasks
from backend.serving.service import PredictionService
from backend.types import Task
from calico_model.errors import CalicoError

_log = logging.getLogger(__name__)
_POLL_S = 0.05
_MOST_OPENED = 64


class Prewarmer:
    """The thread.

    Args:
        task_predictor: encodes and predicts.
        service: its requests go before.
        upcoming: returns the tasks an annotator of a project opens after a task, in order; may
            raise LabelStudioError. None where nobody can tell.
        max_bytes: pixels fetched ahead of an opened task; 0 prefetches nothing.
        quiet_s: how long nobody may have waited for a prediction before an image is encoded.
    """

    def __init__(
        self,
        task_predictor: PredictsTasks,
        service: PredictionService,
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
        """Queues a task that an annotator opened; returns at once."""
        try:
            self._opened.put_nowait(task)
        except queue.Full:
            _log.debug("too many tasks opened at once", extra={"event": "prewarm_full"})

    def close(self) -> None:
        """Stops after the image under way."""
        self._is_closed.set()
        with suppress(queue.Full):  # what is queued wakes the thread, too
            self._opened.put_nowait(None)

    def _run(self) -> None:
        while not self._is_closed.is_set() and (task := self._opened.get()) is not None:
            try:
                self._prewarm(task)
            except _Closed:
                return
            except Exception:  # work ahead of time: nobody waits for it
                _log.exception("prewarming failed", extra={"event": "prewarm_failed"})

    def _prewarm(self, opened: Task) -> None:
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
        used_bytes = 0
        for task in following:
            if used_bytes >= self._max_bytes or not self._opened.empty():
                return  # whoever opened another task comes first
            used_bytes += self._encode(task)

    def _encode(self, task: Task, *, is_opened: bool = False) -> int:
        """Encodes a task's images, and predicts an opened task; returns the bytes of its pixels."""
        if task.problem is not None:
            return 0
        self._step_aside()
        try:
            used_bytes = self._task_predictor.encode_ahead(task, self._step_aside)
            if is_opened:
                self._task_predictor.predict_ahead(task, self._step_aside)
                # Last, and for this task alone: without a GPU a source takes long for an image.
                self._task_predictor.encode_with_sources(task, self._step_aside_while_open)
        except _Overtaken:
            return used_bytes
        except (BackendError, CalicoError) as error:
            _log.info("not prewarmed: %s", error, extra={"event": "prewarm_skipped"})
            return 0
        return used_bytes

    def _step_aside_while_open(self) -> None:
        """Waits as `_step_aside`; raises where another task was opened since."""
        self._step_aside()
        if not self._opened.empty():
            raise _Overtaken

    def _step_aside(self) -> None:
        """Waits until nobody has waited for a prediction for a moment."""
        while self._service.quiet_s < self._quiet_s:
            if self._is_closed.wait(_POLL_S):
                raise _Closed
        if self._is_closed.is_set():
            raise _Closed


class _Overtaken(Exception):
    """Another task was opened meanwhile."""


class _Closed(Exception):
    """The thread is to end."""
