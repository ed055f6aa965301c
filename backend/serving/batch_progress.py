"""How far the tasks of a project are that Label Studio, or a command, asked to predict together.

Label Studio shows nothing while it retrieves predictions, and stores a task that failed as an empty
prediction. So the backend counts, and remembers why a task failed. Kept in memory: it is about the
requests of this process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from backend.clock import now_us
from backend.serving.jobs import Problem
from backend.types import FailedTask

_MOST_PROBLEMS = 1000  # of one project; more are counted and not listed
_MOST_PROJECTS = 1000
_PAUSE_US = 10_000_000


@dataclass(frozen=True)
class BatchStatus:
    """The newest batch of a project.

    Attributes:
        total: tasks that were asked for; a task that is asked for again counts once.
        waiting: tasks that are not finished.
        failed: tasks that could not be predicted.
        problems: the failed tasks by id, at most 1,000.
        began_us: when the first of them was asked for, microseconds since 1970.
        ended_us: when the last one was finished; None while tasks wait.
    """

    total: int
    waiting: int
    failed: int
    problems: tuple[FailedTask, ...]
    began_us: int
    ended_us: int | None

    @property
    def done(self) -> int:
        """Tasks that were predicted."""
        return self.total - self.waiting - self.failed


@dataclass
class _Batch:
    began_us: int
    ended_us: int | None = None
    total: set[int] = field(default_factory=set)
    waiting: set[int] = field(default_factory=set)
    problems: dict[int, Problem] = field(default_factory=dict)


class BatchProgress:
    """Counts. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batches: dict[int, _Batch] = {}

    def begin(self, project_id: int, task_ids: Iterable[int]) -> None:
        """Adds tasks to the batch under way, or begins a new one."""
        with self._lock:
            batch = self._batches.get(project_id)
            if batch is None or (batch.ended_us is not None and not self._goes_on(batch)):
                self._batches.pop(project_id, None)
                while len(self._batches) >= _MOST_PROJECTS:
                    self._batches.pop(next(iter(self._batches)))
                batch = self._batches[project_id] = _Batch(now_us())
            for task_id in task_ids:
                batch.total.add(task_id)
                batch.waiting.add(task_id)
                batch.problems.pop(task_id, None)
            batch.ended_us = None if batch.waiting else now_us()

    def settle(self, project_id: int, task_id: int, problem: Problem | None) -> None:
        """Notes that a task is finished; one that belongs to no batch is not counted."""
        with self._lock:
            batch = self._batches.get(project_id)
            if batch is None or task_id not in batch.waiting:
                return
            batch.waiting.discard(task_id)
            if problem is not None:
                batch.problems[task_id] = problem
            if not batch.waiting:
                batch.ended_us = now_us()

    def drop(self, project_id: int, task_ids: Iterable[int]) -> None:
        """Takes tasks out again that found no place in the queue."""
        with self._lock:
            batch = self._batches.get(project_id)
            if batch is None:
                return
            for task_id in task_ids:
                batch.total.discard(task_id)
                batch.waiting.discard(task_id)
            if not batch.waiting:
                batch.ended_us = now_us()

    def status(self, project_id: int) -> BatchStatus | None:
        """Returns the newest batch of a project, None if there was none."""
        with self._lock:
            batch = self._batches.get(project_id)
            if batch is None:
                return None
            failed = sorted(batch.problems.items())
            problems = tuple(
                FailedTask(task_id, problem.error, problem.detail)
                for task_id, problem in failed[:_MOST_PROBLEMS]
            )
            return BatchStatus(
                len(batch.total),
                len(batch.waiting),
                len(failed),
                problems,
                batch.began_us,
                batch.ended_us,
            )

    @staticmethod
    def _goes_on(batch: _Batch) -> bool:
        """Whether further tasks belong to a batch that has just been finished.

        A command asks for a few tasks at a time, so there are short pauses between them.
        """
        return batch.ended_us is not None and now_us() - batch.ended_us < _PAUSE_US
