"""Jobs for the model in two lanes: those an annotator waits for run before batches.

The queue is bounded. Equal jobs run once, however many callers wait for them. A job goes on when
its callers stop waiting, so that its result can be sent later; a job that is useful to nobody else
is dropped, or marked as no longer wanted. One lock guards all state of the queue and of its
entries. Knows nothing of images, models or HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from backend.errors import BusyError

J = TypeVar("J")
R = TypeVar("R")
_log = logging.getLogger(__name__)
_URGENT_PLACES = 64
_POLL_S = 0.25  # between two checks whether the client is still connected


class QueueEntry(Generic[J, R]):
    """One job and, later, its result. Only `JobQueue` changes it."""

    def __init__(self, key: Hashable, job: J) -> None:
        self.key = key
        self.job = job
        self.result: R | None = None
        self.settled = threading.Event()
        self.waiters = 0
        self.is_taken = False
        self.is_late = False
        self.is_kept = False
        self.is_urgent = False

    def is_wanted(self) -> bool:
        """Whether the result is useful to anybody."""
        return self.is_kept or self.waiters > 0


class JobQueue(Generic[J, R]):
    """Runs jobs in worker threads, urgent ones first.

    Args:
        run: computes the result of a job; also gets a function that tells whether the job is still
            wanted. An exception it raises is logged, and the job ends without a result.
        on_late: called in the worker thread with job and result when nobody waited any more.
        capacity: jobs that may wait; a few urgent ones may wait beyond it, so that a full batch
            does not shut out whoever opens a task.
        workers: threads; one more than the model can use lets images arrive meanwhile.
        urgent_workers: of them, those that take urgent jobs only; less than all.
    """

    def __init__(
        self,
        run: Callable[[J, Callable[[], bool]], R],
        *,
        on_late: Callable[[J, R], None],
        capacity: int,
        workers: int = 2,
        urgent_workers: int = 0,
    ) -> None:
        self._run_job = run
        self._on_late = on_late
        self._capacity = capacity
        self._changed = threading.Condition()
        self._urgent: deque[QueueEntry[J, R]] = deque()
        self._batch: deque[QueueEntry[J, R]] = deque()
        self._unsettled: dict[Hashable, QueueEntry[J, R]] = {}
        self._waiting = 0
        self._is_closed = self._is_ending = False
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(number < urgent_workers,),
                name=f"predict-{number}",
                daemon=True,
            )
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Jobs no worker has begun."""
        return self._waiting

    @property
    def is_closed(self) -> bool:
        """Whether nobody waits any more."""
        return self._is_closed

    @property
    def pending(self) -> int:
        """Jobs that wait or run."""
        return len(self._unsettled)

    def submit(
        self, jobs: Sequence[tuple[Hashable, J]], *, is_urgent: bool, is_kept: bool = True
    ) -> tuple[QueueEntry[J, R] | None, ...]:
        """Queues as many of the jobs as fit; jobs that are already under way are joined.

        Args:
            jobs: pairs of key and job; equal keys mean equal jobs.
            is_urgent: whether somebody waits in front of a screen.
            is_kept: whether the jobs run although nobody waits any more.

        Returns:
            One entry per job; None for a job that found no place and does not run.

        Raises:
            BusyError: the queue is closed.
        """
        limit = self._capacity + (_URGENT_PLACES if is_urgent else 0)
        with self._changed:
            if self._is_ending or self._is_closed:
                raise BusyError("the backend is stopping", retry_after_s=30)
            entries = tuple(
                self._join(key, job, is_urgent=is_urgent, is_kept=is_kept)
                if key in self._unsettled or self._waiting < limit
                else None
                for key, job in jobs
            )
            self._changed.notify_all()
            return entries

    def _join(self, key: Hashable, job: J, *, is_urgent: bool, is_kept: bool) -> QueueEntry[J, R]:
        entry = self._unsettled.get(key)
        if entry is None:
            entry = self._unsettled[key] = QueueEntry(key, job)
            self._waiting += 1
            (self._urgent if is_urgent else self._batch).append(entry)
        elif is_urgent and not entry.is_taken:
            # It keeps its place in the other lane too; a worker that finds it taken skips it.
            self._urgent.append(entry)
        entry.is_kept = entry.is_kept or is_kept
        entry.is_urgent = entry.is_urgent or is_urgent
        entry.waiters += 1
        return entry

    def collect(
        self,
        entries: Sequence[QueueEntry[J, R] | None],
        *,
        deadline: float,
        is_client_gone: Callable[[], bool] | None = None,
    ) -> tuple[R | None, ...]:
        """Waits until all jobs are settled or `time.monotonic()` reaches the deadline.

        Args:
            entries: of `submit`.
            deadline: when nobody waits any more.
            is_client_gone: whether the client has disconnected, so that waiting is over; None
                waits for the deadline.

        Returns:
            One result per entry; None for a job without a place, and for one that is not done or
            ended without a result. A job that is not done goes on and ends in `on_late`, if it is
            kept.
        """
        queued = [entry for entry in entries if entry is not None]
        for entry in queued:
            while not entry.settled.is_set() and (left_s := deadline - time.monotonic()) > 0:
                if is_client_gone is not None and is_client_gone():
                    break
                entry.settled.wait(left_s if is_client_gone is None else min(left_s, _POLL_S))
        with self._changed:
            for entry in queued:
                entry.waiters -= 1
                entry.is_late = not entry.settled.is_set()
                if not entry.is_taken and not entry.is_wanted():
                    self._drop(entry)
            return tuple(None if entry is None else entry.result for entry in entries)

    def _drop(self, entry: QueueEntry[J, R]) -> None:
        """Forgets a job that no worker has begun; a worker that finds it in a lane skips it."""
        if self._unsettled.pop(entry.key, None) is not None:
            entry.is_taken = True
            self._waiting -= 1
            entry.settled.set()

    def end(self) -> None:
        """Takes no more jobs, and finishes the urgent ones; all others end without a result."""
        with self._changed:
            self._is_ending = True
            for key, entry in list(self._unsettled.items()):
                if not entry.is_urgent:
                    entry.settled.set()
                    del self._unsettled[key]
            self._batch.clear()
            self._waiting = sum(not entry.is_taken for entry in self._unsettled.values())
            self._changed.notify_all()

    def close(self) -> None:
        """Lets every waiter go without a result, and stops the workers after their present job."""
        with self._changed:
            self._is_closed = True
            for entry in self._unsettled.values():
                entry.settled.set()
            self._unsettled.clear()
            self._urgent.clear()
            self._batch.clear()
            self._waiting = 0
            self._changed.notify_all()

    def _run(self, is_for_urgent: bool) -> None:
        while (entry := self._take(is_for_urgent)) is not None:
            result = None
            try:
                result = self._run_job(entry.job, entry.is_wanted)
            except Exception:  # one bad task must not stop the worker
                _log.exception("prediction failed", extra={"event": "prediction_failed"})
            self._settle(entry, result)

    def _take(self, is_for_urgent: bool) -> QueueEntry[J, R] | None:
        """Waits for the next job; returns None when the queue is closed."""
        with self._changed:
            while not self._is_closed:
                while lane := self._urgent if is_for_urgent else self._urgent or self._batch:
                    entry = lane.popleft()
                    if not entry.is_taken:
                        entry.is_taken = True
                        self._waiting -= 1
                        return entry
                self._changed.wait()
            return None

    def _settle(self, entry: QueueEntry[J, R], result: R | None) -> None:
        with self._changed:
            if entry.settled.is_set():
                return
            entry.result = result
            entry.settled.set()
            self._unsettled.pop(entry.key, None)
            # Whoever waits takes the result; sending it as well would store it twice.
            is_unclaimed = entry.is_late and entry.waiters == 0
        if is_unclaimed and result is not None:
            self._on_late(entry.job, result)
