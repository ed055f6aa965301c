"""The sources beside CALICO's own model: loaded in the background, asked together, within a budget.

Each source has a thread of its own. A request asks all of them at once, CALICO answers meanwhile,
and what has not come back when the budget is over is left out of that request and counted. An
encoding that comes too late is kept, so the next click on that image finds it. Nobody waits for a
source that was too late until it has answered in time in the background (`SourcePause`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

import numpy as np

from backend.serving.caches import BoundedCache
from backend.serving.metrics import Metrics
from backend.serving.model_thread import ModelThread
from backend.serving.source_pause import SourcePause
from calico_model.errors import CalicoError, InvalidMaskError
from calico_model.sources.source import (
    Ability,
    Encoding,
    Source,
    SourceDescription,
    SourceMask,
)
from calico_model.types import ImageGroup

T = TypeVar("T")
_log = logging.getLogger(__name__)
_STUCK_S = 120.0
"""A source whose call lasts longer is not asked, and not waited for, until it comes back."""


class SourceOutcome(StrEnum):
    """What came of asking a source."""

    ANSWERED = "answered"
    FAILED = "failed"
    LATE = "late"
    PAUSED = "paused"
    LOADING = "loading"


@dataclass(frozen=True)
class SourceStatus:
    """How a source stands.

    Attributes:
        name: of the source.
        state: loading, ready or failed.
        problem: why its weights cannot be used, or "".
        description: None until it is loaded.
        asked: number of requests by outcome; those of "loading" were not asked, and those of
            "paused" did not wait.
    """

    name: str
    state: str
    problem: str
    description: SourceDescription | None
    asked: dict[str, int]


class SourceSession:
    """One source during one call, in the source's thread.

    Attributes:
        source: the source.
    """

    def __init__(self, source: Source, encodings: BoundedCache[Encoding], metrics: Metrics) -> None:
        self.source, self._encodings, self._metrics = source, encodings, metrics

    def encode(self, group: ImageGroup, image_index: int) -> Encoding:
        """Returns the encoding of an image, from the cache where it is kept."""
        described = self.source.describe()
        key = (described.name, described.weights, group.keys[image_index])
        encoding = self._encodings.get(key)
        if encoding is None:
            with self._metrics.source_seconds.labels(described.name, "encode").time():
                encoding = self.source.encode(group.images[image_index])
            self._encodings.put(key, encoding)
        return encoding


def checked(masks: Sequence[SourceMask], size_hw: tuple[int, int]) -> tuple[SourceMask, ...]:
    """Returns the masks of a source, which are compared with those of others.

    Raises:
        InvalidMaskError: a mask is not bool, or has another size than the image.
    """
    for one in masks:
        if one.mask.shape != size_hw or one.mask.dtype != np.bool_:
            raise InvalidMaskError(
                f"mask: expected bool of {size_hw}, got {one.mask.dtype} of {one.mask.shape}"
            )
    return tuple(masks)


class _Worker:
    """A source and its thread."""

    def __init__(
        self,
        name: str,
        load: Callable[[], Source],
        encodings: BoundedCache[Encoding],
        metrics: Metrics,
    ) -> None:
        self.name, self._load = name, load
        self._encodings, self._metrics = encodings, metrics
        self._thread = ModelThread(f"source-{name}")
        self.source: Source | None = None
        self.description: SourceDescription | None = None
        self.problem = ""
        self._outcomes: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._pause = SourcePause()
        self._probe: Future[Any] | None = None  # a question that nobody waits for

    def begin_loading(self) -> Future[None]:
        return self._thread.submit(self._run_load)

    def ask(self, call: Callable[[SourceSession], T], budget_s: float) -> Future[T] | SourceOutcome:
        """Asks a loaded source; the outcome is known already where nobody waits for it."""
        if self.is_stuck:
            return SourceOutcome.LATE
        if self._pause.is_over:
            return self._submit_timed(call, budget_s)
        with self._lock:
            if self._probe is None or self._probe.done():
                self._probe = self._submit_timed(call, budget_s, is_probe=True)
        return SourceOutcome.PAUSED

    def submit(self, call: Callable[[SourceSession], T]) -> Future[T]:
        """Queues a call of a loaded source."""
        source = self.source
        assert source is not None
        session = SourceSession(source, self._encodings, self._metrics)

        def run() -> T:
            self._pause.begin_call()
            try:
                with self._metrics.source_seconds.labels(self.name, "call").time():
                    return call(session)
            finally:
                self._pause.end_call()

        return self._thread.submit(run)

    def _submit_timed(
        self, call: Callable[[SourceSession], T], budget_s: float, *, is_probe: bool = False
    ) -> Future[T]:
        """Queues a question; whether it is answered within the budget decides on the pause."""
        until = time.monotonic() + budget_s

        def timed(session: SourceSession) -> T:
            try:
                return call(session)
            finally:
                if time.monotonic() <= until:
                    self._pause.note_answer()
                elif is_probe:  # of the others, the request that waited has noted it
                    self._pause.note_time_out(budget_s)

        return self.submit(timed)

    def note_late(self, budget_s: float) -> None:
        """Notes that a request has waited for nothing."""
        self._pause.note_time_out(budget_s)

    @property
    def is_stuck(self) -> bool:
        return self._pause.running_s() > _STUCK_S

    def can(self, ability: Ability) -> bool:
        return self.description is not None and ability in self.description.abilities

    def count(self, outcome: SourceOutcome) -> None:
        with self._lock:
            self._outcomes[outcome.value] += 1
        self._metrics.source_requests.labels(self.name, outcome.value).inc()

    @property
    def state(self) -> str:
        if self.source is not None:
            return "ready"
        return "failed" if self.problem else "loading"

    def status(self) -> SourceStatus:
        with self._lock:
            asked = {outcome.value: self._outcomes[outcome.value] for outcome in SourceOutcome}
        return SourceStatus(self.name, self.state, self.problem, self.description, asked)

    def _run_load(self) -> None:
        began = time.monotonic()
        about = {"source": self.name}
        try:
            source = self._load()
            self.description = source.describe()
            self.source = source
        except CalicoError as error:
            self.problem = str(error)
            _log.error("source left out: %s", error, extra={"event": "source_failed", **about})
        except Exception as error:  # the thread has no caller, and serving goes on
            self.problem = f"{type(error).__name__} while loading; see the log"
            _log.exception("source left out", extra={"event": "source_failed", **about})
        else:
            about["seconds"] = f"{time.monotonic() - began:.2f}"
            about["licence"] = self.description.licence
            _log.info("source loaded", extra={"event": "source_loaded", **about})


@dataclass(frozen=True, eq=False)
class SourceAnswer(Generic[T]):
    """What one source answered."""

    source: str
    value: T


@dataclass(frozen=True, eq=False)
class SourceAnswers(Generic[T]):
    """What the sources answered, in the order of the settings.

    Attributes:
        answers: of those that answered in time.
        left_out: names of those that failed, came too late, are in a pause or still load.
    """

    answers: tuple[SourceAnswer[T], ...]
    left_out: tuple[str, ...]


class PendingAnswers(Generic[T]):
    """Sources that are being asked; the budget runs from the moment they were."""

    def __init__(
        self, asked: Sequence[tuple[_Worker, Future[T] | SourceOutcome]], budget_s: float
    ) -> None:
        self._asked, self._budget_s = asked, budget_s
        self._until = time.monotonic() + budget_s

    def collect(self) -> SourceAnswers[T]:
        """Waits for the answers until the budget is over."""
        answers, left_out = [], []
        for worker, pending in self._asked:
            outcome, value = self._wait(worker, pending)
            worker.count(outcome)
            if outcome is SourceOutcome.ANSWERED:
                answers.append(SourceAnswer(worker.name, value))
            else:
                left_out.append(worker.name)
        return SourceAnswers(tuple(answers), tuple(left_out))

    def _wait(
        self, worker: _Worker, pending: Future[T] | SourceOutcome
    ) -> tuple[SourceOutcome, Any]:
        if isinstance(pending, SourceOutcome):
            return pending, None
        about = {"source": worker.name}
        try:
            value = pending.result(max(self._until - time.monotonic(), 0))
        except (TimeoutError, CancelledError):
            pending.cancel()  # a call that has not begun is not worth beginning
            worker.note_late(self._budget_s)
            _log.warning("source too slow", extra={"event": "source_late", **about})
            return SourceOutcome.LATE, None
        except Exception:  # one bad source must not stop the others
            _log.exception("source failed", extra={"event": "source_call_failed", **about})
            return SourceOutcome.FAILED, None
        return SourceOutcome.ANSWERED, value


class SourcePool:
    """The sources of a deployment. Threads may share it.

    Args:
        openers: name of each source, and what reads its weights; in order.
        metrics: count requests and time encodings.
        budget_s: longest time that a request waits for the sources.
        cache_bytes: memory of the kept encodings of all sources.
    """

    def __init__(
        self,
        openers: Sequence[tuple[str, Callable[[], Source]]],
        metrics: Metrics,
        *,
        budget_s: float,
        cache_bytes: int,
    ) -> None:
        self._budget_s = budget_s
        self._encodings: BoundedCache[Encoding] = BoundedCache(
            cache_bytes, lambda encoding: encoding.bytes
        )
        self._loading: tuple[Future[None], ...] = ()
        self._workers = tuple(
            _Worker(name, load, self._encodings, metrics) for name, load in openers
        )

    def __bool__(self) -> bool:
        """Whether there is a source at all."""
        return bool(self._workers)

    @property
    def fingerprint(self) -> str | None:
        """Names and weights of the sources that answer; None while one still loads."""
        described = []
        for worker in self._workers:
            if worker.description is not None:
                described.append(worker.description)
            elif worker.state == "loading":
                return None
        return ",".join(f"{one.name}@{one.weights}" for one in described)

    @property
    def cached_bytes(self) -> int:
        """Memory of the kept encodings."""
        return self._encodings.used_bytes

    def start(self) -> None:
        """Begins to load every source; returns at once."""
        self._loading = tuple(worker.begin_loading() for worker in self._workers)

    def wait_until_loaded(self, timeout_s: float | None = None) -> None:
        """Returns when every source is loaded or has failed, or after the time."""
        futures.wait(self._loading, timeout_s)

    def may_answer(self, ability: Ability) -> bool:
        """Whether a source has an ability, or may have it: it still loads."""
        return any(worker.can(ability) or worker.state == "loading" for worker in self._workers)

    def begin(
        self,
        ability: Ability,
        call: Callable[[SourceSession], T],
        *,
        budget_s: float | None = None,
    ) -> PendingAnswers[T]:
        """Asks every source that has an ability; `call` runs once in each source's thread.

        A source whose weights cannot be used is not asked; one that still loads is left out, and so
        is one that was too late before: its answer is not waited for.
        Answers are awaited for the budget of the pool, or for `budget_s`.
        """
        budget = self._budget_s if budget_s is None else budget_s
        asked: list[tuple[_Worker, Future[T] | SourceOutcome]] = []
        for worker in self._workers:
            if worker.can(ability):
                asked.append((worker, worker.ask(call, budget)))
            elif worker.state == "loading":
                asked.append((worker, SourceOutcome.LOADING))
        return PendingAnswers(asked, budget)

    def encode_ahead(self, group: ImageGroup, image_index: int) -> None:
        """Encodes an image with every loaded source; returns when all are done, or are stuck."""
        pending = [
            (worker, worker.submit(lambda session: session.encode(group, image_index)))
            for worker in self._workers
            if worker.source is not None and not worker.is_stuck
        ]
        for worker, encoded in pending:
            try:
                encoded.result(_STUCK_S)
            except TimeoutError:
                encoded.cancel()
            except Exception:  # nobody waits for it; a click will report it
                about = {"event": "source_call_failed", "source": worker.name}
                _log.exception("source failed", extra=about)

    def status(self) -> tuple[SourceStatus, ...]:
        """Returns how every source stands, in the order of the settings."""
        return tuple(worker.status() for worker in self._workers)
