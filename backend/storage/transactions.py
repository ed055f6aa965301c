"""Runs changes of the writer thread in transactions, and answers each after its commit.

Where other servers write to the same database, two transactions that each hold what the other wants
next would wait for each other, until the database ends one of them. So changes share a transaction
there only if all servers make them in one order (`LockOrder`); the rest is made again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, Transaction
from sqlalchemy.exc import DBAPIError

from backend.errors import StoreError

_log = logging.getLogger(__name__)
_MARK = "calico_batch"
"""A savepoint at the start of every transaction: if it is missing, the transaction has ended."""
_MOST_TRIES = 4  # of a change alone in its transaction
_LOST_RACES = ("40P01", "40001")  # SQLSTATE of a deadlock and of a serialization failure


class SharedBy(IntEnum):
    """Which changes may share a transaction in a database of several servers, in their order."""

    JOURNAL = 0
    KEPT_ANSWERS = 1


@dataclass(frozen=True, order=True)
class LockOrder:
    """Place of a change among those that it may share a transaction with.

    Attributes:
        shared_by: which changes those are.
        key: of the row that the change locks; "" if a lock of the whole transaction covers it.
    """

    shared_by: SharedBy
    key: str = ""


class Proof(Protocol):
    """Checks that committed data is where the next start will read it."""

    def check(self) -> None:
        """Raises StoreError if the data is elsewhere or damaged."""


class NoProof:
    """For databases without files of their own on this machine."""

    def check(self) -> None:
        """Always passes."""


class WaitingChange:
    """A change, where it is answered, and its place among the others."""

    def __init__(
        self, change: Callable[[Connection], Any], done: Future[Any], order: LockOrder | None
    ) -> None:
        self.change = change
        self.done = done
        self.order = order


class _Refused:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class _TransactionEndedError(Exception):
    """The database ended the transaction before its commit: nothing of it is kept."""


class _CommitFailedError(Exception):
    """Whether the transaction is kept is unknown: it is not acknowledged and not repeated."""


class _NoTransactionError(Exception):
    """The database begins no transaction: other changes would fail the same way."""


def commit(engine: Engine, changes: Sequence[WaitingChange], proof: Proof) -> BaseException | None:
    """Runs changes and answers each after a commit that certainly contains it.

    Returns:
        The error if the database accepts no changes at all, or None.
    """
    groups = _groups(changes) if engine.dialect.name == "postgresql" else [changes]
    problem: BaseException | None = None
    for number, group in enumerate(groups):
        try:
            problem = _commit_together(engine, group, proof)
        except _NoTransactionError as error:
            later = [change for rest in groups[number + 1 :] for change in rest]
            return _refuse(later, error) if later else error.__cause__
    return problem


def _groups(changes: Sequence[WaitingChange]) -> list[Sequence[WaitingChange]]:
    """Returns the changes by transaction, each in the order in which all servers take its locks."""
    ordered = [(change.order, change) for change in changes if change.order is not None]
    ordered.sort(key=lambda pair: pair[0])
    shared = groupby(ordered, key=lambda pair: pair[0].shared_by)
    together: list[Sequence[WaitingChange]] = [
        [change for _, change in group] for _, group in shared
    ]
    return together + [[change] for change in changes if change.order is None]


def _commit_together(
    engine: Engine, changes: Sequence[WaitingChange], proof: Proof
) -> BaseException | None:
    """Runs changes in one transaction; returns the error if the database accepted none.

    Raises:
        _NoTransactionError: no transaction could be begun; the changes are answered with the cause.
    """
    try:
        outcomes = _attempt(engine, changes, proof)
    except _TransactionEndedError as ended:
        _log.warning(
            "transaction ended early: %s", first_line(ended), extra={"event": "transaction_ended"}
        )
        return _commit_apart(engine, changes, proof)
    except _CommitFailedError as error:
        return _refuse(changes, error)
    except Exception as error:
        raise _NoTransactionError(str(error)) from _refuse(changes, error)
    _answer(changes, outcomes)
    return None


def _commit_apart(
    engine: Engine, changes: Sequence[WaitingChange], proof: Proof
) -> BaseException | None:
    """Runs changes one by one, so that a change that ends its transaction does not end the others'.

    None of the changes is kept yet, so running them again duplicates nothing.

    Raises:
        _NoTransactionError: no transaction could be begun; the changes are answered with the cause.
    """
    problem: BaseException | None = None
    for number, change in enumerate(changes):
        try:
            outcomes = _attempt_again(engine, change, proof)
        except (_TransactionEndedError, _CommitFailedError) as error:
            problem = _refuse([change], error)
        except Exception as error:
            raise _NoTransactionError(str(error)) from _refuse(changes[number:], error)
        else:
            problem = None
            _answer([change], outcomes)
    return problem


def _attempt_again(engine: Engine, change: WaitingChange, proof: Proof) -> list[object]:
    """Runs one change as `_attempt` does, again if it lost a race; the winner goes on meanwhile."""
    for _ in range(_MOST_TRIES - 1):
        try:
            return _attempt(engine, [change], proof)
        except _TransactionEndedError as error:
            if not _has_lost_race(error.__cause__):
                raise
            _log.warning("again: %s", first_line(error), extra={"event": "transaction_again"})
    return _attempt(engine, [change], proof)


def _has_lost_race(error: BaseException | None) -> bool:
    """Whether the database ended a change for the sake of another that it waited for."""
    cause = error.orig if isinstance(error, DBAPIError) else None
    return getattr(cause, "sqlstate", None) in _LOST_RACES


def _refuse(changes: Sequence[WaitingChange], error: BaseException) -> BaseException:
    """Answers changes with the error, and returns the error."""
    is_ours = isinstance(error, _TransactionEndedError | _CommitFailedError | _NoTransactionError)
    cause = (error.__cause__ if is_ours else None) or error
    _log.error("changes refused: %s", first_line(cause), extra={"event": "commit_failed"})
    _answer(changes, [_Refused(cause)] * len(changes))
    return cause


def _attempt(engine: Engine, changes: Sequence[WaitingChange], proof: Proof) -> list[object]:
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


def _run_change(connection: Connection, change: WaitingChange) -> object:
    """Runs one change in a savepoint of its own, so that its error does not affect the others.

    Raises:
        _TransactionEndedError: its error ended the whole transaction, as a full disk does, or the
            whole is run again, because the change lost a race.
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
        if _has_lost_race(error):
            raise _TransactionEndedError(str(error)) from error
        return _Refused(error)


def _abandon(connection: Connection, transaction: Transaction) -> None:
    """Rolls back the rest of a transaction and closes its connection for good."""
    with suppress(Exception):
        transaction.rollback()
    with suppress(Exception):
        connection.invalidate()


def _answer(changes: Sequence[WaitingChange], outcomes: Sequence[object]) -> None:
    for change, outcome in zip(changes, outcomes, strict=True):
        if isinstance(outcome, _Refused):
            change.done.set_exception(outcome.error)
        else:
            change.done.set_result(outcome)


def first_line(error: BaseException) -> str:
    """First line of an error's message, which has no statement in it."""
    return (str(error).splitlines() or [type(error).__name__])[0]
