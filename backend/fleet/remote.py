"""The web server's side of the fleet: predicts tasks by asking model replicas.

Takes the place of `TaskPredictor` where the server holds no model. One call per task: the job goes
out, the rendered answer comes back; images are fetched by the replica.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable

import msgspec

from backend.errors import AdapterUnavailableError, FleetError, StoppedError
from backend.fleet.replica_pool import ReplicaPool
from backend.fleet.wire import (
    AheadStep,
    ReplicaAnswer,
    decode_answer,
    encode_ahead,
    encode_job,
)
from backend.serving.jobs import PredictionJob, PredictionResult, Problem
from backend.serving.metrics import Metrics
from backend.types import Task

_log = logging.getLogger(__name__)
PREDICT, AHEAD = "predict", "work_ahead"
"""Names of the methods of a replica."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0


def affinity_key(task: Task) -> str:
    """Returns what decides which replica is asked about a task: its project and its images."""
    about = repr((task.project_id, task.image_urls))
    return hashlib.sha256(about.encode()).hexdigest()


class RemoteTaskPredictor:
    """Predicts tasks on model replicas. Threads may share it.

    Args:
        click: replicas for what somebody waits for.
        batch: replicas for everything else; may be none until they are asked.
        metrics: count tasks.
        pause: waits for some seconds; returns True when the server is closing.
    """

    def __init__(
        self,
        click: ReplicaPool,
        batch: ReplicaPool,
        metrics: Metrics,
        *,
        pause: Callable[[float], bool] | None = None,
    ) -> None:
        self._click, self._batch, self._metrics = click, batch, metrics
        self._pause = pause or threading.Event().wait

    def predict_task(
        self, job: PredictionJob, is_wanted: Callable[[], bool] = lambda: True
    ) -> PredictionResult:
        """Answers one task; an error becomes the problem of its result.

        What nobody waits for in front of a screen is asked again until the fleet answers: it may
        have been promised to Label Studio.

        Args:
            job: the task.
            is_wanted: whether the result is useful to anybody; clicks that are no longer wanted
                are given up.

        Raises:
            StoppedError: the server is closing.
        """
        body, key = encode_job(job), affinity_key(job.task)
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                with self._metrics.stage("replica"):
                    result = self._answer(job, body, key, is_wanted)
            except StoppedError as error:
                if not job.is_interactive or is_wanted():
                    raise
                self._count("cancelled")
                return _failed(job, error)
            except FleetError as error:
                if job.is_urgent:
                    self._count("problem")
                    return _failed(job, error)
                if self._pause(pause_s):
                    raise StoppedError("the server is closing") from error
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            self._count("predicted" if result.problem is None else "problem")
            return result

    def encode_ahead(self, task: Task, step_aside: Callable[[], None]) -> int:
        """Has the images of a task fetched and encoded that nobody waits for.

        Args:
            task: without a problem.
            step_aside: called before; the replica itself lets its own requests go first.

        Returns:
            Bytes of their pixels.

        Raises:
            FleetError: it was not done.
        """
        step_aside()
        return self._work_ahead(task, AheadStep.ENCODE)

    def encode_with_sources(self, task: Task, step_aside: Callable[[], None]) -> None:
        """Has the images of an encoded task encoded with the sources; see `encode_ahead`."""
        step_aside()
        self._work_ahead(task, AheadStep.SOURCES)

    def predict_ahead(self, task: Task, step_aside: Callable[[], None]) -> None:
        """Has an encoded task predicted, for the clicks that follow; see `encode_ahead`."""
        step_aside()
        self._work_ahead(task, AheadStep.PREDICT)

    def _answer(
        self, job: PredictionJob, body: bytes, key: str, is_wanted: Callable[[], bool]
    ) -> PredictionResult:
        pool = self._click if job.is_urgent else self._batch
        # Only clicks may be given up; everything else is kept for the next request.
        asks = is_wanted if job.is_interactive else None
        answer: ReplicaAnswer = pool.ask(PREDICT, body, key, decode_answer, asks)
        problem = answer.problem
        if problem is not None and problem.error == AdapterUnavailableError.__name__:
            # The version's files may have come to another replica already.
            answer = pool.ask(PREDICT, body, key, decode_answer, asks, begin_elsewhere=True)
        return answer.result

    def _work_ahead(self, task: Task, step: AheadStep) -> int:
        body = encode_ahead(task, step)
        return self._click.ask(AHEAD, body, affinity_key(task), _read_bytes, tries=1)

    def _count(self, outcome: str) -> None:
        self._metrics.tasks.labels(outcome).inc()


def _read_bytes(body: bytes) -> int:
    try:
        return msgspec.msgpack.decode(body, type=int)
    except msgspec.MsgspecError as error:
        raise FleetError(f"damaged message between server and replica: {error}") from error


def _failed(job: PredictionJob, error: Exception) -> PredictionResult:
    version = None if job.version is None else job.version.id
    return PredictionResult(
        b"", 0.0, version, Problem(type(error).__name__, str(error), is_lasting=False)
    )
