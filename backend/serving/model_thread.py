"""The one thread in which the network runs.

Every thread that calls torch gets a team of OpenMP workers of its own, and as soon as teams hold
more workers than there are cores, libgomp sends them to sleep between two operations instead of
letting them wait: on two cores everything the network does then takes twice as long. Knows nothing
of models.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class ModelThread:
    """Runs calls one after the other, in the order they come; ends with its last owner."""

    def __init__(self) -> None:
        self._calls: _Calls = queue.SimpleQueue()
        # A daemon: a process that stops does not wait for a prediction under way.
        self._thread = threading.Thread(
            target=_work, args=(self._calls,), name="model", daemon=True
        )
        self._thread.start()
        weakref.finalize(self, self._calls.put, None)

    def run(self, call: Callable[[], T]) -> T:
        """Runs a call in the thread and returns, or raises, what it does; waits for its turn."""
        if threading.current_thread() is self._thread:
            return call()
        answer: Future[T] = Future()
        self._calls.put((call, answer))
        try:
            return answer.result()
        finally:
            del answer  # or it and an error would keep each other, and a group's pixels, in memory


_Calls = queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]


def _work(calls: _Calls) -> None:
    while (queued := calls.get()) is not None:
        call, answer = queued
        try:
            answer.set_result(call())
        except BaseException as error:  # it is the caller's, whatever it is
            answer.set_exception(error)
        del queued, call, answer  # what they hold must not stay until the next call comes
