"""A fleet without Ray: replicas in this process, asked through handles like those of Serve."""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from backend.fleet.connection import FleetHandles
from backend.fleet.replica import ModelReplica
from backend.fleet.wire import decode_report

R = TypeVar("R")
_THREADS = concurrent.futures.ThreadPoolExecutor(32)


def result_of(work: Coroutine[Any, Any, R]) -> R:
    """Runs a coroutine in another thread: in this one the loop of a browser test may still run."""
    return _THREADS.submit(asyncio.run, work).result()


class LocalResponse:
    """Runs one method of a replica in a thread of its own."""

    def __init__(self, replica: ModelReplica, method: str, body: bytes) -> None:
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(getattr(replica, method)(body))
        self._future = _THREADS.submit(self._run)

    def _run(self) -> bytes:
        try:
            return self._loop.run_until_complete(self._task)
        finally:
            self._loop.close()

    def result(self, *, timeout_s: float | None) -> bytes:
        try:
            return self._future.result(timeout_s)
        except concurrent.futures.TimeoutError:
            raise TimeoutError from None

    def cancel(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)


@dataclass
class LocalHandle:
    """Sends equal sessions to one replica; one that is taken away is found dead."""

    replicas: list[ModelReplica]
    dead: set[int] = field(default_factory=set)
    asked: list[int] = field(default_factory=list)
    chosen: tuple[str, str] = ("", "")

    def options(self, *, method_name: str, session_id: str) -> LocalHandle:
        return LocalHandle(self.replicas, self.dead, self.asked, (method_name, session_id))

    def remote(self, body: bytes) -> LocalResponse:
        method, session = self.chosen
        digest = hashlib.sha256(session.encode()).digest()
        number = digest[0] % len(self.replicas)
        self.asked.append(number)
        if number in self.dead:
            raise ConnectionError("The actor died")
        return LocalResponse(self.replicas[number], method, body)


def handles(replicas: list[ModelReplica]) -> FleetHandles:
    """Both kinds of replicas are the same ones here."""
    handle = LocalHandle(replicas)

    def reports():
        return tuple(decode_report(result_of(one.report())) for one in replicas)

    return FleetHandles(handle, handle, reports)
