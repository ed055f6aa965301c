"""The one thread that writes to the database: first come first served, many changes per commit.

One transaction per request thread makes SQLite's busy handler back off unfairly, far past the one
second Label Studio waits for a webhook. A queue before a single connection keeps the order and
shares each disk flush among all changes that waited for the one before it.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from backend.errors import BusyError, StoreError

T = TypeVar("T")
_log = logging.getLogger(__name__)
_MOST_PER_COMMIT = 64


class Upkeep(Protocol):
    """Work that nobody waits for, done in small steps between commits."""

    @property
    def is_due(self) -> bool:
        """Whether a step is needed; must be quick."""

    def prune(self, connection: Connection) -> None:
        """Takes one step in a transaction of its own."""


class Chores:
    """Several kinds of upkeep as one; a step goes to the first that is due."""

    def __init__(self, *chores: Upkeep) -> None:
        self._chores = chores

    @property
    def is_due(self) -> bool:
        """Whether any has something to do."""
        return any(chore.is_due for chore in self._chores)

    def prune(self, connection: Connection) -> None:
        """Takes one step."""
        for chore in self._chores:
            if chore.is_due:
                chore.prune(connection)
                return


class WriterThread:
    """Runs changes in the order they were submitted, grouped into durable transactions.

    The queue is the only shared state; connections are used by the thread alone.

    Args:
        engine: whose connections begin a write transaction at once (BEGIN IMMEDIATE on SQLite).
        queue_size: changes that may wait.
        upkeep: done after those who waited for a commit are answered.
    """

    def __init__(self, engine: Engine, *, queue_size: int, upkeep: Upkeep) -> None:
        self._engine = engine
        self._upkeep = upkeep
        self._queue: queue.Queue[_Change | None] = queue.Queue(maxsize=queue_size)
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._is_closed = False
        self._thread.start()

    def run(self, change: Callable[[Connection], T], *, timeout_s: float) -> T:
        """Runs one change and returns its result after the commit that holds it is on disk.

        Raises:
            BusyError: the queue is full or the commit took longer than `timeout_s`; the change may
                still be committed later, so it must be harmless when repeated.
            StoreError: the database refused the change.
        """
        return self._wait(self.submit(change), timeout_s)

    def submit(self, change: Callable[[Connection], T]) -> Future[T]:
        """Queues one change without waiting for it.

        Raises:
            BusyError: the queue is full.
        """
        if self._is_closed:
            raise StoreError("the store is closed")
        done: Future[T] = Future()
        try:
            self._queue.put_nowait(_Change(change, done))
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
            # A change nobody waits for any more is dropped unless the thread already took it.
            done.cancel()
            raise BusyError(
                f"the database took longer than {timeout_s:g} s to commit", retry_after_s=1
            ) from None
        except SQLAlchemyError as error:
            raise StoreError(f"the database refused a change: {type(error).__name__}") from error

    @property
    def waiting(self) -> int:
        """Changes that wait right now."""
        return self._queue.qsize()

    def close(self) -> None:
        """Commits what waits and stops the thread."""
        if not self._is_closed:
            self._is_closed = True
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        while True:
            changes, is_last = self._next_changes()
            if changes:
                _commit_together(self._engine, changes)
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

    def _next_changes(self) -> tuple[list[_Change], bool]:
        changes: list[_Change] = []
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


class _Change:
    def __init__(self, change: Callable[[Connection], Any], done: Future[Any]) -> None:
        self.change = change
        self.done = done


def _commit_together(engine: Engine, changes: list[_Change]) -> None:
    """Runs each change in its own savepoint, so that a refused one leaves the others alone.

    The pool keeps the connection open in between, and replaces one that the database has closed.
    """
    results: list[tuple[_Change, object]] = []
    try:
        with engine.begin() as connection:
            for change in changes:
                try:
                    with connection.begin_nested():
                        results.append((change, change.change(connection)))
                except Exception as error:  # belongs to the one who submitted it
                    results.append((change, _Refused(error)))
    except Exception as error:
        _log.exception("commit failed", extra={"event": "commit_failed"})
        for change in changes:
            change.done.set_exception(error)
        return
    for change, result in results:
        if isinstance(result, _Refused):
            change.done.set_exception(result.error)
        else:
            change.done.set_result(result)


class _Refused:
    def __init__(self, error: Exception) -> None:
        self.error = error
