"""Asks one of several model replicas, and another one when it dies or does not answer.

Predictions change nothing, so a question may be asked again. The first two tries go to the replica
that has the task's images in memory; the others go elsewhere. When nobody has answered several
questions in a row, a breaker refuses the next ones at once for a moment, so that threads of the
web server do not all wait for a fleet that is away.

Knows nothing of Ray: a deployment handle fulfils `ReplicaHandle`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from backend.errors import FleetError, StoppedError

A = TypeVar("A")
_log = logging.getLogger(__name__)
TRIES = 4
_SAME_KEY = 2  # tries with the key itself
_POLL_S = 0.25  # between two checks whether the answer is still wanted
_PAUSES_S = (0.0, 0.05, 0.3, 1.0)  # before each try
_REFUSE_AFTER = 3
_RETRY_S = 5


class ReplicaResponse(Protocol):
    """An answer that may not be there yet."""

    def result(self, *, timeout_s: float | None) -> bytes:
        """Waits for the answer; raises TimeoutError, or what ended the question."""

    def cancel(self) -> None:
        """Tells the replica that nobody waits any more."""


class ReplicaHandle(Protocol):
    """What is used of a handle of Ray Serve."""

    def options(self, *, method_name: str, session_id: str) -> ReplicaHandle:
        """Returns a handle for a method; equal session ids go to one replica."""

    def remote(self, body: bytes) -> ReplicaResponse:
        """Asks."""


class Breaker:
    """Refuses questions for a moment after several in a row were not answered.

    Threads may share it. After the pause one question at a time is let through, until one is
    answered.

    Args:
        refuse_after: questions without an answer, in a row.
        pause_s: how long questions are refused then.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        refuse_after: int = _REFUSE_AFTER,
        pause_s: float = _RETRY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._refuse_after, self._pause_s, self._clock = refuse_after, pause_s, clock
        self._lock = threading.Lock()  # guards all below
        self._unanswered = 0
        self._closed_until = 0.0

    def admit(self) -> None:
        """Raises FleetError while questions are refused."""
        with self._lock:
            if self._unanswered < self._refuse_after:
                return
            if self._clock() < self._closed_until:
                raise FleetError("no model replica answers now", retry_after_s=_RETRY_S)
            self._closed_until = self._clock() + self._pause_s  # others wait for this one

    def note(self, is_answered: bool) -> None:
        """Counts how a question ended."""
        with self._lock:
            self._unanswered = 0 if is_answered else self._unanswered + 1
            self._closed_until = self._clock() + self._pause_s


class ReplicaPool:
    """All replicas of one kind.

    Args:
        name: of the kind, for messages.
        handle: asks one of them.
        try_s: longest wait for one replica.
        note_try: called with the outcome of every try: answered or failed.
        breaker: see there.
        pause: waits for some seconds; returns True when the server is closing.
    """

    def __init__(
        self,
        name: str,
        handle: ReplicaHandle,
        *,
        try_s: float,
        note_try: Callable[[str], None] = lambda _outcome: None,
        breaker: Breaker | None = None,
        pause: Callable[[float], bool] | None = None,
    ) -> None:
        self._name, self._handle, self._try_s = name, handle, try_s
        self._note_try, self._breaker = note_try, breaker or Breaker()
        self._pause = pause or threading.Event().wait

    def ask(
        self,
        method: str,
        body: bytes,
        key: str,
        read: Callable[[bytes], A],
        is_wanted: Callable[[], bool] | None = None,
        *,
        tries: int = TRIES,
        begin_elsewhere: bool = False,
    ) -> A:
        """Returns the answer of a replica.

        Args:
            method: of the replica.
            body: the question.
            key: equal keys are asked of one replica while there are the same ones.
            read: reads the answer; raises FleetError if it cannot, and another replica is asked.
            is_wanted: whether the answer is still useful, asked now and then; None is always.
            tries: how many replicas are asked at most.
            begin_elsewhere: the replica of the key has answered already, and could not help.

        Raises:
            FleetError: none answered.
            StoppedError: the answer is no longer wanted.
        """
        self._breaker.admit()
        reason: Exception | None = None
        for number in range(tries):
            if self._pause(_PAUSES_S[number % len(_PAUSES_S)]):
                raise StoppedError("the server is closing")
            is_elsewhere = begin_elsewhere or number >= _SAME_KEY
            asked_key = f"{key}/{number}" if is_elsewhere else key
            try:
                answer = read(self._try(method, body, asked_key, is_wanted))
            except StoppedError:
                raise
            except Exception as error:  # whatever it was, another replica may answer
                reason = error
                self._note_try("failed")
                about = {"event": "replica_failed", "pool": self._name, "try": number + 1}
                _log.warning("a %s replica failed: %s", self._name, _line(error), extra=about)
                continue
            self._note_try("answered")
            self._breaker.note(is_answered=True)
            return answer
        self._breaker.note(is_answered=False)
        raise FleetError(
            f"none of {tries} {self._name} replicas answered; the last said: {_line(reason)}",
            retry_after_s=_RETRY_S,
        ) from reason

    def _try(
        self, method: str, body: bytes, key: str, is_wanted: Callable[[], bool] | None
    ) -> bytes:
        until = time.monotonic() + self._try_s
        response = self._handle.options(method_name=method, session_id=key).remote(body)
        while True:
            left_s = max(until - time.monotonic(), 0.0)
            try:
                return response.result(
                    timeout_s=left_s if is_wanted is None else min(left_s, _POLL_S)
                )
            except TimeoutError:
                if is_wanted is not None and not is_wanted():
                    response.cancel()
                    raise StoppedError("nobody waits for the answer any more") from None
                if time.monotonic() >= until:
                    response.cancel()
                    raise TimeoutError(f"no answer within {self._try_s:g} s") from None


def _line(error: Exception | None) -> str:
    """The name of an error and its last line: those of Ray hold a traceback of many lines."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1].strip()[:300]}" if lines else type(error).__name__
