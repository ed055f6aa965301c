"""Brings the tables up to date, and says which releases may serve on them.

Every migration step names the oldest step whose release still reads and writes its tables
correctly (`oldest_release`). The newest step writes that into the database, so that a release that
does not know the step can tell whether to serve: during an upgrade of several servers the older
ones go on, and may be started again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, select

from backend.errors import StoreError
from backend.storage.tables import schema_support

_log = logging.getLogger(__name__)
MIGRATIONS = Path(__file__).parent / "migrations"
_SCHEMA = 7235941  # advisory lock


@dataclass(frozen=True)
class SchemaState:
    """The step of a database and the steps of this release.

    Attributes:
        present: newest step that was applied, None for an empty database.
        known: newest step that this release knows.
        oldest_release: oldest step whose release may serve on the tables as they are; None where
            the database does not say.
        is_newer: whether a newer release has made the tables.
    """

    present: str | None
    known: str
    oldest_release: str | None
    is_newer: bool

    @property
    def is_current(self) -> bool:
        """Whether the tables are those of this release."""
        return self.present == self.known

    @property
    def is_served(self) -> bool:
        """Whether this release may serve on newer tables."""
        return (
            self.is_newer and self.oldest_release is not None and self.oldest_release <= self.known
        )


def read_state(connection: Connection) -> SchemaState:
    """Returns the step of a database; changes nothing."""
    script = ScriptDirectory.from_config(_config())
    steps = {step.revision for step in script.walk_revisions()}
    heads = sorted(MigrationContext.configure(connection).get_current_heads())
    oldest = None
    if heads and inspect(connection).has_table(schema_support.name):
        # Only what the step itself has written counts.
        query = select(schema_support.c.oldest_release).where(schema_support.c.step == heads[-1])
        oldest = connection.execute(query).scalar()
    return SchemaState(
        present=heads[-1] if heads else None,
        known=max(steps),
        oldest_release=oldest,
        is_newer=not set(heads) <= steps,
    )


def migrate(engine: Engine) -> SchemaState:
    """Brings the tables up to date in one transaction; returns the state before.

    Tables that a newer release has made stay as they are, if they allow this release.

    Raises:
        StoreError: a newer release has made the tables, and this one must not use them.
    """
    with _alone(engine) as connection:
        before = read_state(connection)
        if before.is_newer:
            _check_newer(before, connection)
            return before
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        if not before.is_current:
            _note_support(connection, config)
    return before


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """One transaction; two processes that start together take turns."""
    with engine.begin() as connection:
        # SQLite's BEGIN IMMEDIATE does the same.
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_SCHEMA})")
        yield connection


def _check_newer(state: SchemaState, connection: Connection) -> None:
    place = connection.engine.url.render_as_string()
    made = (
        f"{place} was written by a newer version of CALICO (its tables have version "
        f"{state.present}, this program knows them up to {state.known})"
    )
    if not state.is_served:
        raise StoreError(f"{made}: update CALICO, or restore a backup from before the update")
    _log.warning(
        "%s; they allow this program, which serves on until it is updated",
        made,
        extra={"event": "newer_tables"},
    )


def _note_support(connection: Connection, config: Config) -> None:
    newest = ScriptDirectory.from_config(config).get_revision("head")
    # A step that says nothing allows no older release.
    oldest = getattr(newest.module, "oldest_release", newest.revision)
    connection.execute(schema_support.delete())
    row = {"id": 1, "step": newest.revision, "oldest_release": oldest}
    connection.execute(schema_support.insert().values(row))


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
