"""Work for the model in two lanes: what an annotator waits for goes before batches.

The queue is bounded, equal work is done once however often it is asked for, and whoever stops
waiting leaves the job running, so that its answer can be sent later; work that is of use to nobody
else is dropped, or told that it is no longer wanted. One lock guards all state of
the queue and of its jobs. Knows nothing of images, models or HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from backend.errors import BusyError

W = TypeVar("W")
A = TypeVar("A")
_log = logging.getLogger(__name__)
_URGENT_PLACES = 64
_LOOK_S = 0.25  # between two looks at whether a client is still there


class Job(Generic[W, A]):
    """One piece of work and, later, its answer. Only `JobQueue` changes it."""

    def __init__(self, key: Hashable, work: W) -> None:
        self.key = key
        self.work = work
        self.answer: A | None = None
        self.settled = threading.Event()
        self.waiters = 0
        self.is_taken = False
        self.is_late = False
        self.is_kept = False

    def wanted(self) -> bool:
        """Whether its answer is of use to anybody."""
        return self.is_kept or self.waiters > 0


class JobQueue(Generic[W, A]):
    """Runs jobs in worker threads, urgent ones first.

    Args:
        run: computes one answer of work and of what tells whether it is still wanted; an exception
            it raises is logged and the job ends unanswered.
        on_late: called in the worker thread with work and answer when nobody waited any more.
        capacity: jobs that may wait; a few urgent ones may wait beyond it, so that a full batch
            does not shut out whoever opens a task.
        workers: threads; one more than the model can use lets images arrive meanwhile.
    """

    def __init__(
        self,
        run: Callable[[W, Callable[[], bool]], A],
        *,
        on_late: Callable[[W, A], None],
        capacity: int,
        workers: int = 2,
    ) -> None:
        self._run_work = run
        self._on_late = on_late
        self._capacity = capacity
        self._changed = threading.Condition()
        self._urgent: deque[Job[W, A]] = deque()
        self._batch: deque[Job[W, A]] = deque()
        self._unsettled: dict[Hashable, Job[W, A]] = {}
        self._waiting = 0
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"predict-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Jobs no worker has begun."""
        return self._waiting

    @property
    def pending(self) -> int:
        """Jobs that wait or run."""
        return len(self._unsettled)

    def submit(
        self, works: Sequence[tuple[Hashable, W]], *, is_urgent: bool, is_kept: bool = True
    ) -> tuple[Job[W, A] | None, ...]:
        """Queues as much of the work as fits; work that is already under way is joined.

        Args:
            works: pairs of key and work; equal keys mean equal work.
            is_urgent: whether somebody waits in front of a screen.
            is_kept: whether the work is done although nobody waits any more.

        Returns:
            One job per work; None for work that found no place and is not done.

        Raises:
            BusyError: the queue is closed.
        """
        limit = self._capacity + (_URGENT_PLACES if is_urgent else 0)
        with self._changed:
            if self._is_closed:
                raise BusyError("the backend is stopping", retry_after_s=30)
            jobs = tuple(
                self._join(key, work, is_urgent=is_urgent, is_kept=is_kept)
                if key in self._unsettled or self._waiting < limit
                else None
                for key, work in works
            )
            self._changed.notify_all()
            return jobs

    def _join(self, key: Hashable, work: W, *, is_urgent: bool, is_kept: bool) -> Job[W, A]:
        job = self._unsettled.get(key)
        if job is None:
            job = self._unsettled[key] = Job(key, work)
            self._waiting += 1
            (self._urgent if is_urgent else self._batch).append(job)
        elif is_urgent and not job.is_taken:
            # It keeps its place in the other lane too; whoever finds it taken passes it over.
            self._urgent.append(job)
        job.is_kept = job.is_kept or is_kept
        job.waiters += 1
        return job

    def collect(
        self,
        jobs: Sequence[Job[W, A] | None],
        *,
        deadline: float,
        has_left: Callable[[], bool] | None = None,
    ) -> tuple[A | None, ...]:
        """Waits until all jobs are settled or `time.monotonic()` reaches the deadline.

        Args:
            jobs: of `submit`.
            deadline: when nobody waits any more.
            has_left: whether who asked is gone, so that waiting is over; None never is.

        Returns:
            One answer per job; None for work without a place and for a job that is not done or
            ended unanswered. A job that is not done goes on and ends in `on_late`, if it is kept.
        """
        queued = [job for job in jobs if job is not None]
        for job in queued:
            while not job.settled.is_set() and (left_s := deadline - time.monotonic()) > 0:
                if has_left is not None and has_left():
                    break
                job.settled.wait(left_s if has_left is None else min(left_s, _LOOK_S))
        with self._changed:
            for job in queued:
                job.waiters -= 1
                job.is_late = not job.settled.is_set()
                if not job.is_taken and not job.wanted():
                    self._drop(job)
            return tuple(None if job is None else job.answer for job in jobs)

    def _drop(self, job: Job[W, A]) -> None:
        """Forgets a job that nobody has begun; whoever finds it in a lane passes it over."""
        if self._unsettled.pop(job.key, None) is not None:
            job.is_taken = True
            self._waiting -= 1
            job.settled.set()

    def close(self) -> None:
        """Lets every waiter go unanswered and stops the workers after their present job."""
        with self._changed:
            self._is_closed = True
            for job in self._unsettled.values():
                job.settled.set()
            self._unsettled.clear()
            self._urgent.clear()
            self._batch.clear()
            self._waiting = 0
            self._changed.notify_all()

    def _run(self) -> None:
        while (job := self._take()) is not None:
            answer = None
            try:
                answer = self._run_work(job.work, job.wanted)
            except Exception:  # one bad task must not stop the worker
                _log.exception("prediction failed", extra={"event": "prediction_failed"})
            self._settle(job, answer)

    def _take(self) -> Job[W, A] | None:
        with self._changed:
            while not self._is_closed:
                while self._urgent or self._batch:
                    job = (self._urgent or self._batch).popleft()
                    if not job.is_taken:
                        job.is_taken = True
                        self._waiting -= 1
                        return job
                self._changed.wait()
            return None

    def _settle(self, job: Job[W, A], answer: A | None) -> None:
        with self._changed:
            if job.settled.is_set():
                return
            job.answer = answer
            job.settled.set()
            self._unsettled.pop(job.key, None)
            # Whoever waits takes the answer; sending it as well would store it twice.
            is_unclaimed = job.is_late and job.waiters == 0
        if is_unclaimed and answer is not None:
            self._on_late(job.work, answer)
