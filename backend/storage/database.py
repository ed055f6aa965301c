"""Opens a database: engines with the right pragmas, a check of the file, tables up to date.

Knows SQLite and PostgreSQL; does not know what the tables are for.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from backend.errors import StoreError
from backend.storage.schema import SchemaState, migrate, read_state

_log = logging.getLogger(__name__)
_FIXED_SQLITE = (3, 51, 3)
_JOURNAL, _UPKEEP, _CORRECTIONS = 7235942, 7235943, 7235944  # advisory locks
_CONNECT_S, _SILENT_MS = 5, 5000  # a database server that says nothing is given up after these


def open_engines(url: str, *, is_guest: bool = False) -> tuple[Engine, Engine]:
    """Returns the engine of the one writer and the engine of all readers.

    Args:
        url: SQLAlchemy URL; the folder of a SQLite file is created for this user alone.
        is_guest: another process may be serving from the same database and does the checkpoints.

    Raises:
        StoreError: unreadable URL, damaged file, or a database that cannot be reached or migrated.
    """
    try:
        place = make_url(url)
    except ArgumentError:
        raise StoreError("database_url: expected a SQLAlchemy URL like sqlite:///FILE") from None
    is_sqlite = place.get_backend_name() == "sqlite"
    engines: list[Engine] = []
    try:
        if is_sqlite and place.database:
            Path(place.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A database server that was restarted has closed what the pools hold: ask before use.
        options: dict[str, Any] = {} if is_sqlite else {"connect_args": _patience(place)}
        engines += [create_engine(url, pool_pre_ping=not is_sqlite, **options) for _ in range(2)]
        writing, reading = engines
        if is_sqlite:
            _prepare_sqlite(writing, begin="BEGIN IMMEDIATE", is_writer=True, is_guest=is_guest)
            _prepare_sqlite(reading, begin="BEGIN", is_writer=False, is_guest=is_guest)
        else:
            _prepare_postgresql(writing)
        _check(writing)
        migrate(writing)
    except Exception as error:
        for engine in engines:
            engine.dispose()
        if isinstance(error, SQLAlchemyError | OSError | ImportError | CommandError):
            raise StoreError(f"cannot open {place.render_as_string()}: {_reason(error)}") from error
        raise
    return writing, reading


def state_of(url: str) -> SchemaState:
    """Returns the step of a database without changing it; a missing SQLite file has none.

    Raises:
        StoreError: unreadable URL, or a database that cannot be reached.
    """
    try:
        place = make_url(url)
    except ArgumentError:
        raise StoreError("database_url: expected a SQLAlchemy URL like sqlite:///FILE") from None
    is_file = place.get_backend_name() == "sqlite" and place.database
    is_missing = is_file and not Path(str(place.database)).exists()
    engine = create_engine("sqlite://" if is_missing else url, poolclass=NullPool)
    try:
        with engine.connect() as connection:
            return read_state(connection)
    except (SQLAlchemyError, OSError, ImportError) as error:
        raise StoreError(f"cannot open {place.render_as_string()}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What the database said, without the statement and the link that SQLAlchemy adds."""
    return str(error.orig if isinstance(error, DBAPIError) else error).strip()


def _prepare_sqlite(engine: Engine, *, begin: str, is_writer: bool, is_guest: bool) -> None:
    @event.listens_for(engine, "connect")
    def _set_pragmas(raw: Any, _record: Any) -> None:
        # SQLAlchemy begins the transactions below; the driver would begin them too late.
        raw.isolation_level = None
        cursor = raw.cursor()
        cursor.execute("PRAGMA busy_timeout=5000")
        cursor.execute("PRAGMA synchronous=FULL")
        if is_writer:
            cursor.execute("PRAGMA journal_mode=WAL")
        if is_guest or not is_writer:
            # Only one writer may checkpoint: two at once can damage the file before 3.51.3.
            cursor.execute("PRAGMA wal_autocheckpoint=0")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    @event.listens_for(engine, "before_cursor_execute")
    def _refuse_autocommit(
        connection: Connection, _cursor: Any, statement: str, *_rest: object
    ) -> None:
        # A full disk ends a transaction: later statements would be committed one by one.
        raw: Any = connection.connection.dbapi_connection
        if not raw.in_transaction and statement != begin:
            raise StoreError("the database ended the transaction before its commit")


def _patience(place: URL) -> dict[str, int]:
    """Options of libpq for a network that swallows packets, except those the URL chooses."""
    options = {"connect_timeout": _CONNECT_S, "tcp_user_timeout": _SILENT_MS}
    return {name: value for name, value in options.items() if name not in place.query}


def _prepare_postgresql(writing: Engine) -> None:
    @event.listens_for(writing, "connect")
    def _set_patience(raw: Any, _record: Any) -> None:
        with raw.cursor() as cursor:
            # A server that stands still within a transaction must not block all others: the
            # database ends its transaction after 1.5 s. Others wait longer than that for
            # their turn, so an event that waits in the meantime is committed and not lost.
            cursor.execute("SET idle_in_transaction_session_timeout = '1500ms'")
            cursor.execute("SET lock_timeout = '5s'")
            cursor.execute("SHOW synchronous_commit")
            if cursor.fetchone() == ("off",):
                # A commit would be acknowledged before it is on the disk.
                cursor.execute("SET synchronous_commit = on")
        raw.commit()


def read_whole(url: URL) -> str:
    """Reads a whole SQLite file as the next start will; returns its damage, "ok" without any.

    Raises:
        SQLAlchemyError: the file cannot be read at all.
    """
    # A connection of its own: the others cache the pages that they have read.
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        return _quick_check(connection)


def _quick_check(connection: Connection) -> str:
    return str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one())


def take_turn(connection: Connection) -> None:
    """Lets one process at a time write the journal, until the transaction ends.

    So its rows become visible in the order of their numbers: a reader that has read a number can
    rely on it that no lower number appears later. SQLite has one writer anyway.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_JOURNAL})")


def take_correction_turn(connection: Connection) -> None:
    """Lets one process at a time replace derived corrections, until the transaction ends.

    Two trainers that derive the same task would else both insert its rows.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_CORRECTIONS})")


def take_upkeep_turn(connection: Connection) -> None:
    """Lets one process at a time delete kept answers, until the transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_UPKEEP})")


def _check(engine: Engine) -> None:
    if engine.dialect.name != "sqlite":
        return
    with engine.connect() as connection:
        version = connection.exec_driver_sql("SELECT sqlite_version()").scalar_one()
        verdict = _quick_check(connection)
    if verdict != "ok":
        raise StoreError(
            f"{engine.url.database} is damaged ({verdict}); restore a backup or move it away"
        )
    is_fixed = tuple(int(part) for part in version.split(".")) >= _FIXED_SQLITE
    note = "" if is_fixed else "; before 3.51.3, so only this process may write to the file"
    _log.info("SQLite %s%s", version, note, extra={"event": "store_opened"})
