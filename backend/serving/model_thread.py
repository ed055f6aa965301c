"""One thread for a network, whichever thread calls. Loads without torch.

Every thread that calls torch gets a team of OpenMP workers of its own, and as soon as teams hold
more workers than there are cores, libgomp sends them to sleep between two operations instead of
letting them wait: on two cores everything the network does then takes twice as long. So a network
runs in one thread.
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
    """Runs calls one after the other, in the order they come; ends with its last owner.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str = "model") -> None:
        self._calls: _Calls = queue.SimpleQueue()
        # A daemon: a process that stops does not wait for a prediction under way.
        self._thread = threading.Thread(
            target=_run_calls, args=(self._calls,), name=name, daemon=True
        )
        self._thread.start()
        weakref.finalize(self, self._calls.put, None)

    def run(self, call: Callable[[], T]) -> T:
        """Runs a call in the thread, after those that came before it.

        Returns what the call returns, or raises what it raises.
        """
        if threading.current_thread() is self._thread:
            return call()
        answer = self.submit(call)
        try:
            return answer.result()
        finally:
            del answer  # else the future and its error keep each other, and pixels, in memory

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Queues a call; one that is cancelled before its turn does not run."""
        answer: Future[T] = Future()
        held = [call]
        # A cancelled call waits for its turn, too: behind a call that hangs, without its pixels.
        answer.add_done_callback(lambda _: held.clear())
        self._calls.put((held, answer))
        return answer


_Calls = queue.SimpleQueue[tuple[list[Callable[[], Any]], Future[Any]] | None]


def _run_calls(calls: _Calls) -> None:
    while (queued := calls.get()) is not None:
        held, answer = queued
        if answer.set_running_or_notify_cancel():
            try:
                answer.set_result(held[0]())
            except BaseException as error:  # raised again in the caller's thread
                answer.set_exception(error)
        del queued, held, answer  # else their pixels stay in memory until the next call
