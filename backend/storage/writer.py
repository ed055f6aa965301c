"""The one thread that writes to the database: first come, first served, many changes per commit.

With one transaction per request thread, SQLite's busy handler lets some threads wait far longer
than the one second Label Studio gives a webhook. A queue before a single connection keeps the order
and shares each disk flush among all changes that waited for the flush before.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from backend.errors import BusyError, StoreError
from backend.storage.transactions import (
    LockOrder,
    NoProof,
    Proof,
    WaitingChange,
    commit,
    first_line,
)
from backend.storage.upkeep import Upkeep

T = TypeVar("T")
_log = logging.getLogger(__name__)
_MOST_PER_COMMIT = 64


class WriterThread:
    """Runs changes in the order they were submitted, grouped into durable transactions.

    In a database of several servers, those with a `LockOrder` may overtake others.
    The queue is the only shared state; connections are used by the thread alone.

    Args:
        engine: its connections begin a write transaction at once (BEGIN IMMEDIATE on SQLite).
        queue_size: number of changes that may wait.
        upkeep: done after the changes of a commit are answered.
        proof: checked after every commit, before the changes are answered.
    """

    def __init__(
        self, engine: Engine, *, queue_size: int, upkeep: Upkeep, proof: Proof | None = None
    ) -> None:
        self._engine = engine
        self._proof = proof or NoProof()
        self._upkeep = upkeep
        self._queue: queue.Queue[WaitingChange | None] = queue.Queue(maxsize=queue_size)
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._is_closed = False
        self._problem: BaseException | None = None
        self._thread.start()

    def run(
        self,
        change: Callable[[Connection], T],
        *,
        timeout_s: float,
        order: LockOrder | None = None,
    ) -> T:
        """Runs one change and returns its result after the commit that holds it is on disk.

        It may be run several times; only what it did the last time is kept.

        Raises:
            BusyError: the queue is full or the commit took longer than `timeout_s`; the change may
                still be committed later, so it must be harmless when repeated.
            StoreError: the database refused the change.
        """
        return self._wait(self.submit(change, order=order), timeout_s)

    def submit(
        self, change: Callable[[Connection], T], *, order: LockOrder | None = None
    ) -> Future[T]:
        """Queues one change without waiting for it.

        Without an order it has a transaction of its own where other servers write, too.

        Raises:
            BusyError: the queue is full.
        """
        if self._is_closed:
            raise StoreError("the store is closed")
        done: Future[T] = Future()
        try:
            self._queue.put_nowait(WaitingChange(change, done, order))
        except queue.Full:
            raise BusyError(
                f"{self._queue.maxsize} changes already wait for the database", retry_after_s=1
            ) from None
        return done

    @staticmethod
    def _wait(done: Future[T], timeout_s: float) -> T:
        try:
            return done.result(timeout=timeout_s)
        except FutureTimeoutError:
            # A change that nobody waits for any more is dropped unless the thread has taken it.
            done.cancel()
            raise BusyError(
                f"the database took longer than {timeout_s:g} s to commit", retry_after_s=1
            ) from None
        except SQLAlchemyError as error:
            raise StoreError(f"the database refused a change: {_reason(error)}") from error

    @property
    def waiting(self) -> int:
        """Number of changes that wait."""
        return self._queue.qsize()

    def check(self) -> None:
        """Raises StoreError if the database refused the last commit or the thread has ended."""
        problem = self._problem
        if isinstance(problem, StoreError):
            raise problem
        if problem is not None:
            raise StoreError(f"the database takes no changes: {first_line(problem)}")
        if not (self._thread.is_alive() or self._is_closed):
            raise StoreError("the thread that writes has ended; start the server again")

    def close(self) -> None:
        """Commits the waiting changes and stops the thread."""
        if not self._is_closed:
            self._is_closed = True
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        while True:
            changes, is_last = self._next_changes()
            if changes:
                self._problem = commit(self._engine, changes, self._proof)
            if is_last:
                return
            self._keep_up()

    def _keep_up(self) -> None:
        """Takes at least one step per commit, so that steady traffic cannot put it off forever."""
        while self._upkeep.is_due:
            try:
                with self._engine.begin() as connection:
                    self._upkeep.prune(connection)
            except Exception:  # tried again after the next commit
                _log.exception("upkeep failed", extra={"event": "upkeep_failed"})
                return
            if not self._queue.empty():
                return

    def _next_changes(self) -> tuple[list[WaitingChange], bool]:
        changes: list[WaitingChange] = []
        waiting = self._queue.get()
        while waiting is not None:
            if waiting.done.set_running_or_notify_cancel():
                changes.append(waiting)
            if len(changes) == _MOST_PER_COMMIT:
                return changes, False
            try:
                waiting = self._queue.get_nowait()
            except queue.Empty:
                return changes, False
        return changes, True


def _reason(error: SQLAlchemyError) -> str:
    """Kind and message of a database error, without the statement and its values."""
    name = type(error).__name__
    if not isinstance(error, OperationalError):
        return name
    return f"{name}, {first_line(error.orig)}" if error.orig is not None else name
