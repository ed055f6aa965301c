"""From parsed tasks to answers within a budget; what takes longer is finished later.

Owns who waits for what. Does not know HTTP, nor how a task is looked at.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

from backend.errors import BusyError, InvalidTaskError
from backend.label_schema import LabelSchema
from backend.serving.adapter_registry import AdapterRegistry
from backend.serving.job_queue import JobQueue
from backend.serving.jobs import PredictionJob, PredictionResult, Problem
from backend.serving.metrics import Metrics
from backend.serving.model_host import ModelHost
from backend.serving.task_predictor import TaskPredictor
from backend.serving.text_prompts import settle
from backend.storage.versions import AdapterVersion
from backend.types import PredictRequest, Task

_log = logging.getLogger(__name__)

_LONGEST_AHEAD_S = 3600.0

Push = Callable[[Task, PredictionResult], None]


class PredictionService:
    """Answers requests for predictions.

    Args:
        host: holds the model.
        looking: looks at one task.
        push: sends one late answer to Label Studio in the background, or None when nobody can.
        budget_s: longest a request may wait.
        seats: requests that may wait at once, so that threads are left for everything else.
        capacity: tasks that may wait.
        lines: the version of each project.
    """

    def __init__(
        self,
        host: ModelHost,
        task_predictor: TaskPredictor,
        metrics: Metrics,
        *,
        push: Push | None,
        budget_s: float,
        seats: int,
        capacity: int,
        lines: AdapterRegistry,
    ) -> None:
        self._host, self._metrics = host, metrics
        self._push, self._budget_s = push, budget_s
        self._seats = threading.BoundedSemaphore(seats)
        self._lines = lines
        self._asked_s = -math.inf
        self._queue: JobQueue[PredictionJob, PredictionResult] = JobQueue(
            task_predictor.predict_task, on_late=self._send_later, capacity=capacity
        )

    @property
    def waiting(self) -> int:
        """Tasks that wait for the model."""
        return self._queue.waiting

    @property
    def pending(self) -> int:
        """Tasks that wait or are looked at."""
        return self._queue.pending

    @property
    def quiet_s(self) -> float:
        """Seconds since anybody asked for a prediction, 0 while tasks wait."""
        return 0.0 if self._queue.waiting else time.monotonic() - self._asked_s

    def current(self, project_id: int | None) -> AdapterVersion | None:
        """Reads which version answers a project now; None for the base."""
        return self._lines.current(project_id)

    def announced(self, version: AdapterVersion | None) -> str | None:
        """What predictions of a version are stamped with; None while there are no weights."""
        base = self._host.version
        return base if base is None or version is None else version.id

    def predict(
        self,
        request: PredictRequest,
        version: AdapterVersion | None = None,
        *,
        has_left: Callable[[], bool] | None = None,
    ) -> tuple[PredictionResult | None, ...]:
        """Answers every task of a request, in order, within the budget.

        Args:
            request: what is asked.
            version: `current` of its project, read when the request came.
            has_left: whether who asked is gone. What was clicked is then no longer of use.

        Returns:
            One entry per task; None stands for "not yet": the task is finished in the background
            and sent to Label Studio, or at least remembered for the next time it is asked. Tasks
            beyond the capacity are "not yet" too, but have to be asked for again: Label Studio
            would show an error as success, and lose the tasks that do fit.

        Raises:
            NotReadyError: the weights cannot be used.
            BusyError: the service is closed.
        """
        began = self._asked_s = time.monotonic()
        self._host.check()
        question, prompts = settle(request.question, request.prompts)
        works = [
            PredictionJob(
                task,
                request.schema,
                prompts,
                request.is_interactive,
                version,
                question=question,
                canvas=request.canvas,
            )
            for task in request.tasks
            if task.problem is None
        ]
        # A lone task is one that somebody just opened.
        is_urgent = request.is_interactive or len(request.tasks) == 1
        jobs = self._queue.submit(
            [(work.key, work) for work in works],
            is_urgent=is_urgent,
            is_kept=not request.is_interactive,
        )
        if surplus := sum(job is None for job in jobs):
            _log.warning("tasks without a place", extra={"event": "queue_full", "surplus": surplus})
        has_seat = self._seats.acquire(blocking=False)
        try:
            deadline = began + (self._budget_s if has_seat else 0.0)
            who_left = has_left if request.is_interactive else None
            found = iter(self._queue.collect(jobs, deadline=deadline, has_left=who_left))
        finally:
            if has_seat:
                self._seats.release()
        answers = tuple(
            next(found) if task.problem is None else _unusable(task, self.announced(version))
            for task in request.tasks
        )
        self._count("not_yet", sum(answer is None for answer in answers))
        return answers

    def predict_ahead(
        self, task: Task, schema: LabelSchema, version: AdapterVersion | None
    ) -> PredictionResult | None:
        """Predicts one task that nobody waits for, behind everything else.

        Returns:
            The answer, or None if there was no place or the service closed.

        Raises:
            NotReadyError: the weights cannot be used.
            BusyError: the service is closed.
        """
        self._host.wait()
        work = PredictionJob(task, schema, version=version, wants_look=True)
        jobs = self._queue.submit([(work.key, work)], is_urgent=False)
        (answer,) = self._queue.collect(jobs, deadline=time.monotonic() + _LONGEST_AHEAD_S)
        return answer

    def close(self) -> None:
        """Answers "not yet" to everybody who waits and stops the workers."""
        self._queue.close()

    def _send_later(self, work: PredictionJob, answer: PredictionResult) -> None:
        if self._push is None or work.is_interactive or work.task.id is None or answer.problem:
            return
        try:
            self._push(work.task, answer)
        except BusyError:
            self._count("push_failed")
            _log.warning(
                "late answer dropped", extra={"event": "push_dropped", "task": work.task.id}
            )

    def _count(self, outcome: str, amount: int = 1) -> None:
        self._metrics.tasks.labels(outcome).inc(amount)


def _unusable(task: Task, version: str | None) -> PredictionResult:
    problem = Problem(InvalidTaskError.__name__, task.problem or "", is_lasting=True)
    return PredictionResult(b"", 0.0, version, problem)
