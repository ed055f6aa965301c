"""A model replica: one process of the fleet that holds the model and answers web servers.

Knows nothing of Ray, which starts it, asks it and restarts it. Questions that are equal are
computed once, those that somebody waits for go first, and all this replica has in memory (images,
features, adapters) is its own.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import msgspec

from backend.background import build_membership
from backend.errors import BackendError, FleetError, StoppedError
from backend.fleet.wire import (
    AheadJob,
    AheadStep,
    ReplicaReport,
    decode_ahead,
    decode_job,
    encode_answer,
    encode_report,
)
from backend.prediction_side import build_local_side
from backend.served_model import AdaptableModel
from backend.serving.job_queue import JobQueue
from backend.serving.jobs import PredictionJob, PredictionResult
from backend.serving.logs import LogFormat, start_logging
from backend.serving.metrics import Metrics, package_version
from backend.serving.model_host import ModelState
from backend.serving.studio import connect_client, image_source, studio_names
from backend.settings import Settings, export_variables, load_settings
from backend.storage.store import open_store
from backend.types import GroupSource
from calico_model.errors import CalicoError

_log = logging.getLogger(__name__)
QUESTIONS_AT_ONCE = 16
"""Questions that one replica takes at once; others are asked of another replica."""
_QUIET_S = 0.5
_POLL_S = 0.05
_LONGEST_S = 300.0


class ModelReplica:
    """Answers questions about tasks.

    Args:
        settings: as for a server with a model; without the address of a fleet.
        load: builds the model instead of the one in `settings`.
        images: fetches images instead of Label Studio's API.

    Raises:
        StoreError: the database cannot be opened.
        NotReadyError: the weights cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        load: Callable[[], AdaptableModel] | None = None,
        images: GroupSource | None = None,
    ) -> None:
        self._store = open_store(
            settings.store_url,
            is_guest=True,
            cached_predictions=settings.cached_predictions,
            cached_prediction_bytes=settings.cached_prediction_bytes,
        )
        metrics = Metrics()
        source = images or image_source(settings, connect_client(settings), studio_names(settings))
        self._side = build_local_side(
            settings,
            self._store,
            metrics,
            source,
            leads=lambda base: self._membership.leads(f"prototypes {base}"),
            load=load,
        )
        self._queue: JobQueue[PredictionJob, PredictionResult] = JobQueue(
            self._side.task_predictor.predict_task,
            on_late=lambda _job, _result: None,
            capacity=QUESTIONS_AT_ONCE,
            workers=settings.predict_workers,
        )
        self._membership = build_membership(
            self._store, self._side.host, lambda: self._queue.waiting, metrics
        )
        self._asked_at = time.monotonic()
        self._threads = ThreadPoolExecutor(QUESTIONS_AT_ONCE + 4, thread_name_prefix="replica")
        self._side.start()
        try:
            self._side.host.wait()
        except BackendError:
            self.close()
            raise
        self._membership.start()
        self._side.start_learning_names()

    async def predict(self, body: bytes) -> bytes:
        """Answers one job; see `wire.encode_job` and `wire.encode_answer`.

        Raises:
            FleetError: the job cannot be read, or was not done.
            StoppedError: nobody waits for it any more.
        """
        return await self._in_thread(lambda is_gone: self._predict(body, is_gone))

    async def work_ahead(self, body: bytes) -> bytes:
        """Does one step of work ahead of time; see `wire.encode_ahead`.

        Returns:
            The bytes of the task's pixels as a number in msgpack, 0 if it cannot be used.
        """
        return await self._in_thread(lambda is_gone: self._work_ahead(body, is_gone))

    async def report(self) -> bytes:
        """Says what this replica is; see `wire.encode_report`."""
        return encode_report(
            ReplicaReport(
                package_version(),
                self._side.host.version or "",
                self._queue.pending,
                self._side.registry.loaded,
                self._membership.owner,
            )
        )

    def check_health(self) -> None:
        """Raises FleetError when the weights cannot be used; Ray then starts another replica."""
        if self._side.host.state is not ModelState.READY:
            raise FleetError("the weights cannot be used")

    def close(self) -> None:
        """Stops its threads and closes the database; what is under way is not answered."""
        self._queue.close()
        self._side.close()
        self._membership.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._store.close()

    async def _in_thread(self, work: Callable[[Callable[[], bool]], bytes]) -> bytes:
        """Runs work in a thread; tells it when the question was taken back."""
        is_gone = threading.Event()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, work, is_gone.is_set)
        except asyncio.CancelledError:
            is_gone.set()
            raise

    def _predict(self, body: bytes, is_gone: Callable[[], bool]) -> bytes:
        job = decode_job(body)
        self._asked_at = time.monotonic()
        entries = self._queue.submit(
            [(job.key, job)], is_urgent=job.is_urgent, is_kept=not job.is_interactive
        )
        (result,) = self._queue.collect(
            entries, deadline=time.monotonic() + _LONGEST_S, is_client_gone=is_gone
        )
        self._asked_at = time.monotonic()
        if result is None:
            if is_gone():
                raise StoppedError("the question was taken back")
            raise FleetError("the job was not done; the log of the replica has the details")
        return encode_answer(result, self._side.host.version)

    def _work_ahead(self, body: bytes, is_gone: Callable[[], bool]) -> bytes:
        ahead = decode_ahead(body)

        def step_aside() -> None:
            while not is_gone() and not self._is_quiet():
                time.sleep(_POLL_S)
            if is_gone():
                raise StoppedError("the question was taken back")

        used_bytes = 0
        with suppress(StoppedError):
            try:
                used_bytes = self._do(ahead, step_aside)
            except StoppedError:
                raise
            except (BackendError, CalicoError) as error:
                event = {"event": "prewarm_skipped", "task": ahead.task.id}
                _log.info("not prewarmed: %s", error, extra=event)
        return msgspec.msgpack.encode(used_bytes)

    def _do(self, ahead: AheadJob, step_aside: Callable[[], None]) -> int:
        predictor = self._side.task_predictor
        if ahead.step is AheadStep.ENCODE:
            return predictor.encode_ahead(ahead.task, step_aside)
        if ahead.step is AheadStep.PREDICT:
            predictor.predict_ahead(ahead.task, step_aside)
        else:
            predictor.encode_with_sources(ahead.task, step_aside)
        return 0

    def _is_quiet(self) -> bool:
        """Whether nobody has waited for this replica for a moment."""
        return not self._queue.pending and time.monotonic() - self._asked_at >= _QUIET_S


class ServedReplica(ModelReplica):
    """A replica as Ray Serve makes it, from environment variables.

    Args:
        variables: the settings, see `settings.as_variables`.
        _release: of the deployment; another one makes Ray replace the replicas.
    """

    def __init__(self, variables: dict[str, str], _release: str) -> None:
        export_variables(variables)
        settings = load_settings()
        start_logging(settings.log_level, LogFormat(settings.log_format))
        super().__init__(settings)

    def __del__(self) -> None:
        """Ray's way to say that the last question was answered."""
        with suppress(Exception):  # whatever is half built ends with the process
            self.close()
