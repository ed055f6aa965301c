"""The database: events, the newest state of each annotation, adapter versions, kept answers.

SQLAlchemy Core over SQLite (WAL, synchronous=FULL) or PostgreSQL by URL. All writes go through the
one `WriterThread`; reads use their own connections and never wait for it. Knows the values of
`backend.types`; does not know HTTP or Label Studio's JSON.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    func,
    literal,
    literal_column,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from backend.clock import now_us
from backend.errors import BusyError, StoreError
from backend.storage.database import open_engines, take_turn
from backend.storage.database_health import DatabaseFiles, DatabaseHealth, watch_files
from backend.storage.journal import Journal, StoredEvent, stored_event
from backend.storage.tables import adapter, ann_head, event_log, prediction
from backend.storage.transactions import LockOrder, SharedBy
from backend.storage.upkeep import Chores, KeptAnswers, OldBodies
from backend.storage.writer import WriterThread
from backend.types import Event

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_KEYS_PER_QUERY = 500
_CHECK_EVERY_S = 600.0
_UNDER_TURN = LockOrder(SharedBy.JOURNAL)
_DATABASE_TIME: ColumnElement[int] = literal_column(
    "(extract(epoch from clock_timestamp()) * 1000000)::bigint", BigInteger
)


@dataclass(frozen=True)
class Head:
    """The newest known state of one annotation.

    Attributes:
        annotation_id: Label Studio's annotation id.
        key: key of the event that contains the state.
        is_deleted: whether the annotation was deleted.
    """

    annotation_id: int
    key: str
    is_deleted: bool


class Store:
    """One open database; threads may share it. Use `open_store`.

    Attributes:
        health: checks that committed data will be found by the next start.
    """

    def __init__(
        self,
        writing: Engine,
        reading: Engine,
        *,
        queue_size: int,
        commit_timeout_s: float,
        cached_predictions: int,
        cached_prediction_bytes: int,
        files: DatabaseFiles | None = None,
        check_every_s: float | None = None,
    ) -> None:
        self._writing = writing
        self._reading = reading
        self._commit_timeout_s = commit_timeout_s
        self._kept = KeptAnswers(
            max_rows=cached_predictions,
            max_bytes=cached_prediction_bytes,
            is_shared=self.is_shared,
        )
        self._insert: Any = (
            postgresql.insert if writing.dialect.name == "postgresql" else sqlite.insert
        )
        self._journal = Journal(self._insert)
        self._writer = WriterThread(
            writing, queue_size=queue_size, upkeep=Chores(self._kept, OldBodies()), proof=files
        )
        self.health = DatabaseHealth(reading, self._writer, files, check_every_s=check_every_s)

    def record_events(self, events: Sequence[Event]) -> int:
        """Journals events and moves the heads; returns after the commit is on disk.

        Repeated deliveries change nothing, and the heads do not depend on the order of arrival.

        Returns:
            Number of events that were new.

        Raises:
            BusyError: too many changes wait, or the commit takes too long; sending again is safe.
            StoreError: the database refused the change.
        """
        record = self._journal.record
        new = self._in_turn(lambda rows, now: sum(record(rows, one, now) for one in events))
        self._read_back([event.key for event in events])
        return new

    def _in_turn(self, change: Callable[[Connection, int], int]) -> int:
        """Makes a change of the journal; `change` gets the time of receipt."""
        received_us = now_us()

        def run(connection: Connection) -> int:
            take_turn(connection)
            return change(connection, received_us)

        return self._writer.run(run, timeout_s=self._commit_timeout_s, order=_UNDER_TURN)

    def _read_back(self, keys: Sequence[str]) -> None:
        """Checks that another connection finds the committed events."""
        wanted = sorted(set(keys))
        with self.read() as connection:
            for start in range(0, len(wanted), _KEYS_PER_QUERY):
                few = wanted[start : start + _KEYS_PER_QUERY]
                query = select(func.count()).where(event_log.c.key.in_(few))
                if connection.execute(query).scalar_one() != len(few):
                    raise StoreError(
                        "a committed change cannot be read back; check the disk of the database"
                    )

    def record_observation(self, event: Event, *, expected: str | None) -> bool:
        """Journals a state that Label Studio's API shows, unless a newer event came meanwhile.

        Args:
            event: the annotation's state, or its deletion.
            expected: key of the head that the state was compared with, None without a head.

        Returns:
            Whether the head has moved.

        Raises:
            BusyError: too many changes wait, or the commit takes too long; observing again is safe.
            StoreError: the database refused the change.
        """
        observe = self._journal.observe
        return bool(self._in_turn(lambda rows, now: observe(rows, event, now, expected=expected)))

    def record_relabelling(self, event: Event, *, before: str) -> bool:
        """Journals a state that only names labels anew: learning counts it as the state before.

        Args:
            event: the annotation's state with the new names.
            before: key of the head with the old names.

        Returns:
            False if somebody changed the annotation meanwhile; nothing is changed then.

        Raises:
            BusyError: too many changes wait, or the commit takes too long.
            StoreError: the database refused the change.
        """
        relabel = self._journal.relabel
        return bool(self._in_turn(lambda rows, now: relabel(rows, event, now, before=before)))

    def heads(self, project_id: int) -> tuple[Head, ...]:
        """Returns the newest state of every annotation of a project, by annotation id."""
        query = (
            select(ann_head.c.annotation_id, ann_head.c.key, ann_head.c.deleted)
            .where(ann_head.c.project_id == project_id)
            .order_by(ann_head.c.annotation_id)
        )
        with self.read() as connection:
            return tuple(Head(*row) for row in connection.execute(query))

    def events(
        self, project_id: int, *, after_seq: int = 0, limit: int = 1000
    ) -> tuple[StoredEvent, ...]:
        """Returns journalled events of a project in the order they were committed."""
        query = (
            select(event_log)
            .where(event_log.c.project_id == project_id, event_log.c.seq > after_seq)
            .order_by(event_log.c.seq)
            .limit(limit)
        )
        with self.read() as connection:
            return tuple(stored_event(row) for row in connection.execute(query).mappings())

    def find_event(self, key: str) -> StoredEvent | None:
        """Returns one journalled event, or None."""
        with self.read() as connection:
            row = connection.execute(select(event_log).where(event_log.c.key == key)).mappings()
            first = row.first()
            return None if first is None else stored_event(first)

    def versions(self) -> tuple[str, ...]:
        """Returns the ids of all adapter versions that were ever published, newest first."""
        query = (
            select(adapter.c.id)
            .where(adapter.c.status.in_(("current", "retired")))
            .order_by(adapter.c.created_at_us.desc())
        )
        with self.read() as connection:
            return tuple(connection.execute(query).scalars())

    def find_prediction(self, key: str) -> bytes | None:
        """Returns a kept answer, or None."""
        query = select(prediction.c.body).where(prediction.c.key == key)
        with self.read() as connection:
            return connection.execute(query).scalar()

    def keep_prediction(
        self, key: str, body: bytes, *, project_id: int | None, task_id: int | None, version: str
    ) -> None:
        """Queues an answer to be kept; does not wait, and drops the answer if the queue is full."""
        if not self._kept.takes(body):
            return
        row = self._insert(prediction).values(
            key=key,
            project_id=project_id,
            task_id=task_id,
            version=version,
            body=body,
            created_at_us=now_us(),
        )

        def keep(connection: Connection) -> None:
            insert = row.on_conflict_do_nothing(index_elements=["key"])
            self._kept.add(connection, insert, len(body))

        try:
            self._writer.submit(keep, order=LockOrder(SharedBy.KEPT_ANSWERS, key))
        except BusyError:
            _log.warning("answer not kept: queue full", extra={"event": "prediction_not_kept"})

    @property
    def is_shared(self) -> bool:
        """Whether other servers may serve from this database; never true of a SQLite file."""
        return self._writing.dialect.name == "postgresql"

    @property
    def waiting(self) -> int:
        """Number of changes that wait for the writer thread."""
        return self._writer.waiting

    def backup(self, path: Path) -> None:
        """Writes a consistent copy of a SQLite database to a new file while serving goes on.

        Raises:
            StoreError: the file exists, cannot be written, or the database is not SQLite.
        """
        if self._reading.dialect.name != "sqlite":
            raise StoreError("backup: expected a SQLite database; use pg_dump for PostgreSQL")
        if path.exists():
            raise StoreError(f"backup: {path} exists; name a new file")
        try:
            with self._reading.connect() as connection:
                # VACUUM refuses to run inside a transaction.
                raw = connection.connection.cursor()
                raw.execute("VACUUM INTO ?", (str(path),))
                raw.close()
        except (SQLAlchemyError, OSError, self._reading.dialect.loaded_dbapi.Error) as error:
            raise StoreError(f"backup: cannot write {path}: {error}") from error

    @property
    def time_us(self) -> ColumnElement[int]:
        """Now, in microseconds since 1970 UTC, for a statement.

        By the clock of the database where other servers may share it: what one machine writes and
        another compares must not depend on their two clocks.
        """
        return _DATABASE_TIME if self.is_shared else literal(now_us(), BigInteger)

    @property
    def insert(self) -> Any:
        """The dialect's INSERT, which supports ON CONFLICT."""
        return self._insert

    def write(self, change: Callable[[Connection], _T], *, timeout_s: float) -> _T:
        """Runs a change in the writer thread; returns after its commit is on disk.

        Raises:
            BusyError: too many changes wait, or the commit takes too long; the change may still be
                committed.
            StoreError: the database refused the change.
        """
        return self._writer.run(change, timeout_s=timeout_s)

    def queue(self, change: Callable[[Connection], object]) -> bool:
        """Queues a change that nobody waits for; False if too many changes wait already.

        Raises:
            StoreError: the store is closed.
        """
        try:
            self._writer.submit(change)
        except BusyError:
            return False
        return True

    def submit(self, change: Callable[[Connection], _T]) -> Future[_T]:
        """Queues a change without waiting for it; changes are made in the order they are queued.

        Raises:
            BusyError: too many changes wait.
        """
        return self._writer.submit(change)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yields a connection for reading.

        Raises:
            StoreError: the database cannot be read.
        """
        self.health.check_files()
        try:
            with self._reading.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreError(f"the database cannot be read: {type(error).__name__}") from error

    def close(self) -> None:
        """Commits the waiting changes and closes every connection."""
        self.health.stop()
        self._writer.close()
        self.health.join()
        self._reading.dispose()
        self._writing.dispose()
        self.health.close_files()


def open_store(
    url: str,
    *,
    queue_size: int = 1024,
    commit_timeout_s: float = 0.7,
    cached_predictions: int = 40_000,
    cached_prediction_bytes: int = 512 * 1024 * 1024,
    is_guest: bool = False,
    check_every_s: float = _CHECK_EVERY_S,
) -> Store:
    """Opens a database, checks it and brings its tables up to date.

    Args:
        url: SQLAlchemy URL; the folder of a SQLite file is created for this user alone.
        queue_size: number of changes that may wait for the writer thread.
        commit_timeout_s: longest wait for a commit, in seconds.
        cached_predictions: number of answers kept; the oldest are deleted.
        cached_prediction_bytes: bytes of their bodies.
        is_guest: another process may be serving from the same database, and examines it.
        check_every_s: seconds between two full reads of a SQLite file.

    Raises:
        StoreError: unreadable URL, damaged file, or a database that cannot be reached or migrated.
    """
    writing, reading = open_engines(url, is_guest=is_guest)
    return Store(
        writing,
        reading,
        queue_size=queue_size,
        commit_timeout_s=commit_timeout_s,
        cached_predictions=cached_predictions,
        cached_prediction_bytes=cached_prediction_bytes,
        files=watch_files(writing),
        check_every_s=None if is_guest else check_every_s,
    )
