"""Sends results that came too late for their request, one after the other, with patience."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from backend.errors import BackendError, BusyError
from backend.serving.jobs import PredictionResult
from backend.serving.metrics import Metrics
from backend.types import Task

_log = logging.getLogger(__name__)
_PAUSES_S = (1.0, 5.0, 30.0)


class LateAnswerSender:
    """A thread with a bounded queue; a result that cannot be sent after some tries is dropped.

    Dropping is safe: the store keeps the answer, and Label Studio asks again when the task is
    opened. `on_end` may try again later.

    Args:
        send: creates one prediction through Label Studio's API; raises BackendError.
        metrics: count what was sent.
        capacity: results that may wait.
        pauses_s: waiting times between tries.
        on_end: called with each task in the end, and whether its prediction was sent.
    """

    def __init__(
        self,
        send: Callable[[Task, PredictionResult], None],
        metrics: Metrics,
        *,
        capacity: int = 10_000,
        pauses_s: tuple[float, ...] = _PAUSES_S,
        on_end: Callable[[Task, bool], None] = lambda _task, _is_sent: None,
    ) -> None:
        self._send, self._on_end = send, on_end
        self._metrics = metrics
        self._pauses_s = pauses_s
        self._queue: queue.Queue[tuple[Task, PredictionResult]] = queue.Queue(maxsize=capacity)
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="late-sender", daemon=True)
        self._thread.start()

    def push(self, task: Task, result: PredictionResult) -> None:
        """Queues one result.

        Raises:
            BusyError: too many results wait.
        """
        try:
            self._queue.put_nowait((task, result))
        except queue.Full:
            raise BusyError("too many late answers wait to be sent") from None

    def close(self) -> None:
        """Stops after the result under way; results that wait are not sent."""
        self._is_closed.set()

    def _run(self) -> None:
        while not self._is_closed.is_set():
            try:
                task, result = self._queue.get(timeout=1.0)
            except queue.Empty:
                continue
            is_sent = self._try_sending(task, result)
            self._metrics.tasks.labels("pushed" if is_sent else "push_failed").inc()
            self._on_end(task, is_sent)

    def _try_sending(self, task: Task, result: PredictionResult) -> bool:
        """Tries to send a result, again after each pause; returns whether it was sent."""
        for pause_s in (*self._pauses_s, None):
            try:
                self._send(task, result)
            except BackendError as error:
                _log.warning(
                    "late answer of task %s: %s", task.id, error, extra={"event": "push_failed"}
                )
                if pause_s is None or self._is_closed.wait(pause_s):
                    return False
            else:
                return True
        return False
