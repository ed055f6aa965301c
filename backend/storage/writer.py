"""The one thread that writes to the database: first come, first served, many changes per commit.

With one transaction per request thread, SQLite's busy handler lets some threads wait far longer
than the one second Label Studio gives a webhook. A queue before a single connection keeps the order
and shares each disk flush among all changes that waited for the flush before.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine, Transaction
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from backend.errors import BusyError, StoreError
from backend.storage.upkeep import Upkeep

T = TypeVar("T")
_log = logging.getLogger(__name__)
_MOST_PER_COMMIT = 64
_MARK = "calico_batch"
"""A savepoint at the start of every transaction: if it is missing, the transaction has ended."""


class Proof(Protocol):
    """Checks that committed data is where the next start will read it."""

    def check(self) -> None:
        """Raises StoreError if the data is elsewhere or damaged."""


class NoProof:
    """For databases without files of their own on this machine."""

    def check(self) -> None:
        """Always passes."""


class WriterThread:
    """Runs changes in the order they were submitted, grouped into durable transactions.

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
        self._queue: queue.Queue[_Change | None] = queue.Queue(maxsize=queue_size)
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._is_closed = False
        self._problem: BaseException | None = None
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
            raise StoreError(f"the database takes no changes: {_line(problem)}")
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
                self._problem = _commit_together(self._engine, changes, self._proof)
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


def _reason(error: SQLAlchemyError) -> str:
    """Kind and message of a database error, without the statement and its values."""
    name = type(error).__name__
    if not isinstance(error, OperationalError):
        return name
    return f"{name}, {_line(error.orig)}" if error.orig is not None else name


def _line(error: BaseException) -> str:
    """First line of an error's message, which has no statement in it."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class _Change:
    def __init__(self, change: Callable[[Connection], Any], done: Future[Any]) -> None:
        self.change = change
        self.done = done


class _Refused:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class _TransactionEndedError(Exception):
    """The database ended the transaction before its commit: nothing of it is kept."""


class _CommitFailedError(Exception):
    """Whether the transaction is kept is unknown: it is not acknowledged and not repeated."""


def _commit_together(
    engine: Engine, changes: Sequence[_Change], proof: Proof
) -> BaseException | None:
    """Runs changes in one transaction and answers each after a commit that certainly contains it.

    Returns:
        The error if the database accepts no changes at all, or None.
    """
    try:
        outcomes = _attempt(engine, changes, proof)
    except _TransactionEndedError as ended:
        _log.warning(
            "transaction ended early: %s", _line(ended), extra={"event": "transaction_ended"}
        )
        return _commit_apart(engine, changes, proof)
    except Exception as error:
        return _refuse(changes, error)
    _answer(changes, outcomes)
    return None


def _commit_apart(engine: Engine, changes: Sequence[_Change], proof: Proof) -> BaseException | None:
    """Runs changes one by one, so that a change that ends its transaction does not end the others'.

    None of the changes is kept yet, so running them again duplicates nothing.
    """
    problem: BaseException | None = None
    for number, change in enumerate(changes):
        try:
            outcomes = _attempt(engine, [change], proof)
        except (_TransactionEndedError, _CommitFailedError) as error:
            problem = _refuse([change], error)
        except Exception as error:
            # The remaining changes would fail the same way.
            return _refuse(changes[number:], error)
        else:
            problem = None
            _answer([change], outcomes)
    return problem


def _refuse(changes: Sequence[_Change], error: BaseException) -> BaseException:
    """Answers changes with the error, and returns the error."""
    is_ours = isinstance(error, _TransactionEndedError | _CommitFailedError)
    cause = (error.__cause__ if is_ours else None) or error
    _log.error("changes refused: %s", _line(cause), extra={"event": "commit_failed"})
    _answer(changes, [_Refused(cause)] * len(changes))
    return cause


def _attempt(engine: Engine, changes: Sequence[_Change], proof: Proof) -> list[object]:
    """Runs changes in one transaction; returns the result or the refusal of each.

    The pool keeps the connection open; after an error it is closed and replaced.

    Raises:
        _TransactionEndedError: nothing is kept, and the changes may be run again.
        _CommitFailedError: whether the changes are kept is unknown.
        Exception: no transaction could be begun.
    """
    proof.check()  # a new connection would create a missing file
    with engine.connect() as connection:
        transaction = connection.begin()
        try:
            connection.exec_driver_sql(f"SAVEPOINT {_MARK}")
            outcomes = [_run_change(connection, change) for change in changes]
            connection.exec_driver_sql(f"RELEASE SAVEPOINT {_MARK}")
        except Exception as error:
            _abandon(connection, transaction)
            if isinstance(error, _TransactionEndedError):
                raise
            raise _TransactionEndedError(str(error)) from error
        try:
            transaction.commit()
        except Exception as error:
            _abandon(connection, transaction)
            raise _CommitFailedError(str(error)) from error
        try:
            proof.check()
        except StoreError as error:
            raise _CommitFailedError(str(error)) from error
    return outcomes


def _run_change(connection: Connection, change: _Change) -> object:
    """Runs one change in a savepoint of its own, so that its error does not affect the others.

    Raises:
        _TransactionEndedError: its error ended the whole transaction, as a full disk does.
    """
    savepoint = connection.begin_nested()
    try:
        result = change.change(connection)
        savepoint.commit()
        return result
    except Exception as error:  # answered to its submitter, if the transaction goes on
        try:
            savepoint.rollback()
            # The mark exists only in the transaction that set it; SQLite may have begun another.
            connection.exec_driver_sql(f"RELEASE SAVEPOINT {_MARK}")
            connection.exec_driver_sql(f"SAVEPOINT {_MARK}")
        except Exception:
            raise _TransactionEndedError(str(error)) from error
        return _Refused(error)


def _abandon(connection: Connection, transaction: Transaction) -> None:
    """Rolls back the rest of a transaction and closes its connection for good."""
    with suppress(Exception):
        transaction.rollback()
    with suppress(Exception):
        connection.invalidate()


def _answer(changes: Sequence[_Change], outcomes: Sequence[object]) -> None:
    for change, outcome in zip(changes, outcomes, strict=True):
        if isinstance(outcome, _Refused):
            change.done.set_exception(outcome.error)
        else:
            change.done.set_result(outcome)
