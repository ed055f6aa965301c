"""The web server's side of the fleet: predicts tasks by asking model replicas.

Takes the place of `TaskPredictor` where the server holds no model. One call per task: the job goes
out, the rendered answer comes back; images are fetched by the replica.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Sequence

import msgspec

from backend.decoding import read_msgpack
from backend.errors import FilesUnavailableError, FleetError, StoppedError
from backend.fleet.replica_pool import ReplicaPool
from backend.fleet.wire import (
    AheadStep,
    ReplicaAnswer,
    ReplicaReport,
    decode_answer,
    encode_ahead,
    encode_job,
)
from backend.serving.jobs import PredictionJob, PredictionResult, Problem
from backend.serving.metrics import Metrics
from backend.serving.model_host import ModelHost
from backend.storage.versions import AdapterVersion
from backend.types import Task

_log = logging.getLogger(__name__)
PREDICT, AHEAD = "predict", "work_ahead"
"""Names of the methods of a replica."""
_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, *(15.0 for _ in range(36)))


def affinity_key(task: Task) -> str:
    """Returns what decides which replica is asked about a task: its project and its images."""
    about = repr((task.project_id, task.image_urls))
    return hashlib.sha256(about.encode()).hexdigest()


class RemoteFleet:
    """The replicas of a fleet, in the place of a model.

    Args:
        click: replicas for what somebody waits for.
        batch: replicas for everything else; may be none until they are asked.
        reports: asks every click replica for its report.
    """

    def __init__(
        self,
        click: ReplicaPool,
        batch: ReplicaPool,
        reports: Callable[[], Sequence[ReplicaReport]] = tuple,
    ) -> None:
        self.click, self.batch, self._reports = click, batch, reports
        self._version = ""

    @property
    def version(self) -> str:
        """Names the weights of the replicas.

        During an update it is the old one, until all replicas have the new one: else Label Studio
        would be told one and the other by turns, and predict everything again each time.
        """
        return self._version

    def refresh(self) -> bool:
        """Asks the replicas for their weights; returns whether a version is known."""
        found = {report.weights for report in self._reports()}
        if len(found) == 1:
            (self._version,) = found
        return bool(self._version)


class RemoteTaskPredictor:
    """Predicts tasks on model replicas. Threads may share it.

    Args:
        host: holds the connection to the fleet.
        metrics: count tasks.
        pause: waits for some seconds; returns True when the server is closing.
    """

    def __init__(
        self,
        host: ModelHost[RemoteFleet],
        metrics: Metrics,
        *,
        pause: Callable[[float], bool] | None = None,
    ) -> None:
        self._host, self._metrics = host, metrics
        self._pause = pause or threading.Event().wait

    def require(self, version: AdapterVersion | None) -> None:
        """Accepts every version: a replica that lacks its files is passed over when it says so."""

    def predict_task(
        self, job: PredictionJob, is_wanted: Callable[[], bool] = lambda: True
    ) -> PredictionResult:
        """Answers one task; an error becomes the problem of its result.

        What nobody waits for in front of a screen is asked again for some ten minutes, because
        it may have been promised to Label Studio; not for ever, because the task itself may be
        what ends the replicas.

        Args:
            job: the task.
            is_wanted: whether the result is useful to anybody; clicks that are no longer wanted
                are given up.

        Raises:
            NotReadyError: there never was a fleet.
            StoppedError: the server is closing.
        """
        self._host.wait()
        body, key = encode_job(job), affinity_key(job.task)
        pauses = iter(_PAUSES_S)
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
                pause_s = None if job.is_urgent else next(pauses, None)
                if pause_s is None:
                    self._count("problem")
                    return _failed(job, error)
                if self._pause(pause_s):
                    raise StoppedError("the server is closing") from error
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
        fleet = self._host.wait()
        pool = fleet.click if job.is_urgent else fleet.batch
        # Only clicks may be given up; everything else is kept for the next request.
        asks = is_wanted if job.is_interactive else None
        answer: ReplicaAnswer = pool.ask(PREDICT, body, key, decode_answer, asks)
        problem = answer.problem
        if problem is not None and problem.error == FilesUnavailableError.__name__:
            # The version's files may have come to another replica already.
            answer = pool.ask(PREDICT, body, key, decode_answer, asks, begin_elsewhere=True)
        return answer.result

    def _work_ahead(self, task: Task, step: AheadStep) -> int:
        body = encode_ahead(task, step)
        return self._host.wait().click.ask(AHEAD, body, affinity_key(task), _read_bytes, tries=1)

    def _count(self, outcome: str) -> None:
        self._metrics.tasks.labels(outcome).inc()


def _read_bytes(body: bytes) -> int:
    try:
        return read_msgpack(body, int)
    except msgspec.MsgspecError as error:
        raise FleetError(f"damaged message between server and replica: {error}") from error


def _failed(job: PredictionJob, error: Exception) -> PredictionResult:
    version = None if job.version is None else job.version.id
    return PredictionResult(
        b"", 0.0, version, Problem(type(error).__name__, str(error), is_lasting=False)
    )
