"""From parsed tasks to results within a budget; what takes longer is finished later.

Owns who waits for what. Does not know HTTP, nor how a task is predicted.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from backend.errors import BusyError, InvalidTaskError
from backend.label_schema import LabelSchema
from backend.served_model import NamedWeights
from backend.serving.adapter_registry import AdapterRegistry
from backend.serving.batch_progress import BatchProgress
from backend.serving.job_queue import JobQueue
from backend.serving.jobs import PredictionJob, PredictionResult, PredictsTasks, Problem
from backend.serving.metrics import Metrics
from backend.serving.model_host import ModelHost
from backend.serving.text_prompts import separate_question
from backend.storage.versions import AdapterVersion
from backend.types import PredictRequest, Task

_log = logging.getLogger(__name__)

_LONGEST_AHEAD_S = 3600.0
_END_S = 10.0  # for clicks and opened tasks that are under way when the process ends
_STOPPED_S = 30
_UNFINISHED: Problem | None = Problem(
    "PredictionFailed", "error while predicting; the log has the details", is_lasting=False
)


class Promises(Protocol):
    """Where tasks are written down that Label Studio gets the prediction of later."""

    def owe(self, tasks: Iterable[Task]) -> None:
        """Writes down tasks."""

    def is_ours(self, task: Task) -> bool:
        """Whether this server sends a late prediction of a task."""

    def settle(self, task: Task, *, is_late: bool = True) -> None:
        """Forgets a task that needs no late prediction any more."""

    def release(self, task: Task) -> None:
        """Leaves a task to another server."""


class NoPromises:
    """Writes nothing down: nobody could send anything to Label Studio."""

    def owe(self, tasks: Iterable[Task]) -> None:
        """Does nothing."""

    def is_ours(self, task: Task) -> bool:
        """Says yes of every task."""
        return task.id is not None

    def settle(self, task: Task, *, is_late: bool = True) -> None:
        """Does nothing."""

    def release(self, task: Task) -> None:
        """Does nothing."""


SendLater = Callable[[Task, PredictionResult], None]


class PredictionService:
    """Answers requests for predictions.

    Args:
        host: holds the model.
        task_predictor: predicts one task.
        metrics: count the outcomes.
        send_later: queues a late result for Label Studio, or None when nobody can send it; may
            raise BusyError.
        budget_s: longest a request may wait.
        waiting_requests: that may wait at once, so that threads are left for everything else.
        capacity: tasks that may wait.
        workers: tasks under way at once.
        urgent_workers: of them, those that take only what somebody waits for.
        registry: the version of each project.
        progress: counts the tasks that are asked for together.
        on_given: called with every task and the version that Label Studio is given to store.
        owed: where tasks that are answered "not yet" are written down, if somebody sends them.
    """

    def __init__(
        self,
        host: ModelHost[NamedWeights],
        task_predictor: PredictsTasks,
        metrics: Metrics,
        *,
        send_later: SendLater | None,
        budget_s: float,
        waiting_requests: int,
        capacity: int,
        workers: int = 2,
        urgent_workers: int = 0,
        registry: AdapterRegistry,
        progress: BatchProgress | None = None,
        on_given: Callable[[Task, str | None], None] = lambda _task, _version: None,
        owed: Promises | None = None,
    ) -> None:
        self._owed = NoPromises() if owed is None else owed
        self._host, self._metrics, self._registry = host, metrics, registry
        self._send_later, self._budget_s = send_later, budget_s
        self._may_wait = threading.BoundedSemaphore(waiting_requests)
        self._requested_at = -math.inf
        self._progress, self._on_given = progress or BatchProgress(), on_given
        self._task_predictor = task_predictor
        self._queue: JobQueue[PredictionJob, PredictionResult] = JobQueue(
            self._predict_task,
            on_late=self._handle_late,
            capacity=capacity,
            workers=workers,
            urgent_workers=urgent_workers,
        )

    @property
    def waiting(self) -> int:
        """Tasks that wait for the model."""
        return self._queue.waiting

    @property
    def pending(self) -> int:
        """Tasks that wait or are being predicted."""
        return self._queue.pending

    @property
    def quiet_s(self) -> float:
        """Seconds since the last request for a prediction, 0 while tasks wait."""
        return 0.0 if self._queue.waiting else time.monotonic() - self._requested_at

    def current(self, project_id: int | None) -> AdapterVersion | None:
        """Reads which version answers a project now; None for the base."""
        return self._registry.current(project_id)

    def announced(self, version: AdapterVersion | None) -> str | None:
        """Returns what predictions of a version are stamped with; None without weights."""
        base = self._host.version
        return base if base is None or version is None else version.id

    def predict(
        self,
        request: PredictRequest,
        version: AdapterVersion | None = None,
        *,
        is_client_gone: Callable[[], bool] | None = None,
        is_background: bool = False,
    ) -> tuple[PredictionResult | None, ...]:
        """Answers every task of a request, in order, within the budget.

        Args:
            request: as parsed.
            version: `current` of its project, read when the request came.
            is_client_gone: whether the client has disconnected; its clicks are then no longer
                useful.
            is_background: nobody looks at the tasks, also if there is only one.

        Returns:
            One entry per task; None stands for "not yet": the task is finished in the background
            and sent to Label Studio, or at least remembered for the next request. Tasks beyond the
            capacity are "not yet" too, but have to be asked for again: Label Studio would show an
            error as success, and lose the tasks that do fit.

        Raises:
            NotReadyError: the weights cannot be used.
            FilesUnavailableError: the version cannot be used here now; see `AdapterRegistry`.
            BusyError: the service is closed.
        """
        began = self._requested_at = time.monotonic()
        self._host.check()
        self._task_predictor.require(version)
        question, prompts = separate_question(request.question, request.prompts)
        # A single task was just opened by somebody.
        is_urgent = request.is_interactive or (len(request.tasks) == 1 and not is_background)
        jobs = [
            PredictionJob(
                task,
                request.schema,
                prompts,
                request.is_interactive,
                version,
                question=question,
                canvas=request.canvas,
                is_urgent=is_urgent,
            )
            for task in request.tasks
            if task.problem is None
        ]
        if not is_urgent:
            self._begin_batch(request, version)
        entries = self._queue.submit(
            [(job.key, job) for job in jobs],
            is_urgent=is_urgent,
            is_kept=not request.is_interactive,
        )
        if surplus := sum(entry is None for entry in entries):
            _log.warning("tasks without a place", extra={"event": "queue_full", "surplus": surplus})
            self._leave_batch(
                job.task for job, entry in zip(jobs, entries, strict=True) if entry is None
            )
        may_wait = self._may_wait.acquire(blocking=False)
        try:
            deadline = began + (self._budget_s if may_wait else 0.0)
            is_gone = is_client_gone if request.is_interactive else None
            predicted = iter(
                self._queue.collect(entries, deadline=deadline, is_client_gone=is_gone)
            )
        finally:
            if may_wait:
                self._may_wait.release()
        results = tuple(
            next(predicted) if task.problem is None else _unusable(task, self.announced(version))
            for task in request.tasks
        )
        if request.is_interactive and self._queue.is_closed and None in results:
            raise BusyError("the backend is stopping", retry_after_s=_STOPPED_S)
        self._count("not_yet", sum(result is None for result in results))
        if not request.is_interactive:
            for task, result in zip(request.tasks, results, strict=True):
                if result is not None:
                    self._on_given(task, result.version)
                    self._owed.settle(task, is_late=False)
            placed = zip(jobs, entries, strict=True)
            has_place = {job.task.id for job, entry in placed if entry is not None}
            late = zip(request.tasks, results, strict=True)
            self._owed.owe(task for task, r in late if r is None and task.id in has_place)
        return results

    def predict_ahead(
        self, task: Task, schema: LabelSchema, version: AdapterVersion | None
    ) -> PredictionResult | None:
        """Predicts one task that nobody waits for, behind everything else.

        Returns:
            The result with its descriptor, or None if there was no place or the service closed.

        Raises:
            NotReadyError: the weights cannot be used.
            BusyError: the service is closed.
        """
        self._host.wait()
        job = PredictionJob(task, schema, version=version, wants_descriptor=True, is_urgent=False)
        entries = self._queue.submit([(job.key, job)], is_urgent=False)
        (result,) = self._queue.collect(entries, deadline=time.monotonic() + _LONGEST_AHEAD_S)
        if result is not None and result.problem is None:
            self._on_given(task, result.version)  # the caller pushes it
        return result

    def end(self) -> None:
        """Finishes clicks and opened tasks for a moment, then closes; returns at once.

        Batches are answered "not yet" now, and new requests are refused: another server, or this
        one after its restart, answers them.
        """
        self._queue.end()
        closing = threading.Timer(_END_S, self._queue.close)
        closing.daemon = True
        closing.start()

    def close(self) -> None:
        """Answers "not yet" to everybody who waits, refuses clicks, and stops the workers."""
        self._queue.close()

    def _predict_task(self, job: PredictionJob, is_wanted: Callable[[], bool]) -> PredictionResult:
        task, problem = job.task, _UNFINISHED
        try:
            result = self._task_predictor.predict_task(job, is_wanted)
            problem = result.problem
            return result
        except Exception:
            self._owed.settle(task)
            raise
        finally:
            if not job.is_interactive and task.project_id is not None and task.id is not None:
                self._progress.settle(task.project_id, task.id, problem)

    def _begin_batch(self, request: PredictRequest, version: AdapterVersion | None) -> None:
        """Counts the tasks of a request; those that cannot be used have failed already."""
        tasks = [task for task in request.tasks if task.id is not None]
        if request.project_id is None or not tasks:
            return
        self._progress.begin(request.project_id, [task.id or 0 for task in tasks])
        for task in tasks:
            if task.problem is not None:
                problem = _unusable(task, self.announced(version)).problem
                self._progress.settle(request.project_id, task.id or 0, problem)

    def _leave_batch(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            if task.project_id is not None and task.id is not None:
                self._progress.drop(task.project_id, [task.id])

    def _handle_late(self, job: PredictionJob, result: PredictionResult) -> None:
        if self._send_later is None or job.is_interactive or job.task.id is None:
            return
        if result.problem:
            self._owed.settle(job.task)
            return
        if not self._owed.is_ours(job.task):
            return  # the server that owes it sends it
        try:
            self._send_later(job.task, result)
            self._on_given(job.task, result.version)
        except BusyError:
            self._owed.release(job.task)
            self._count("push_failed")
            _log.warning(
                "late answer dropped", extra={"event": "push_dropped", "task": job.task.id}
            )

    def _count(self, outcome: str, amount: int = 1) -> None:
        self._metrics.tasks.labels(outcome).inc(amount)


def _unusable(task: Task, version: str | None) -> PredictionResult:
    problem = Problem(InvalidTaskError.__name__, task.problem or "", is_lasting=True)
    return PredictionResult(b"", 0.0, version, problem)
