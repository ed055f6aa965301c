"""How predicting again stands, per project: the same on the pages of every server.

The one server that predicts again writes it to a shared database every few seconds; on a SQLite
file it stays in memory.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import Connection, and_, select

from backend.errors import BusyError, StoreError
from backend.storage.store import Store
from backend.storage.tables import refresh_progress

_EVERY_S = 2.0
_SILENT_US = 120_000_000  # a pass whose server was killed is not shown as running for ever


@dataclass(frozen=True)
class RefreshStatus:
    """How a pass over a project stands.

    Attributes:
        version: that predicts.
        done: tasks whose prediction was pushed.
        total: tasks there were to do.
        is_running: whether the pass goes on.
    """

    version: str
    done: int
    total: int
    is_running: bool


class RefreshProgress:
    """The newest status of every project. Threads may share it.

    Args:
        store: the database, None to keep everything in memory.
    """

    def __init__(self, store: Store | None = None) -> None:
        self._store = store if store is not None and store.is_shared else None
        self._known: dict[int, RefreshStatus] = {}
        self._next_s: dict[int, float] = {}

    def put(self, project_id: int, status: RefreshStatus) -> None:
        """Keeps a status; does not wait for the database."""
        before = self._known.get(project_id)
        self._known[project_id] = status
        if self._store is None or status == before:
            return
        now = time.monotonic()
        if status.is_running and now < self._next_s.get(project_id, 0.0):
            return
        self._next_s[project_id] = now + _EVERY_S
        with suppress(BusyError):  # the next status is written
            self._write(self._store, project_id, status)

    def get(self, project_id: int) -> RefreshStatus | None:
        """Returns the newest status of a project, None if it was never predicted again."""
        if self._store is None:
            return self._known.get(project_id)
        columns = refresh_progress.c
        is_fresh = columns.told_at_us > self._store.time_us - _SILENT_US
        query = select(
            columns.version,
            columns.done,
            columns.total,
            and_(columns.is_running, is_fresh).label("is_running"),
        ).where(columns.project_id == project_id)
        try:
            with self._store.read() as connection:
                row = connection.execute(query).first()
        except StoreError:
            return self._known.get(project_id)
        return None if row is None else RefreshStatus(*row)

    @staticmethod
    def _write(store: Store, project_id: int, status: RefreshStatus) -> None:
        row = store.insert(refresh_progress).values(
            project_id=project_id,
            version=status.version,
            done=status.done,
            total=status.total,
            is_running=status.is_running,
            told_at_us=store.time_us,
        )
        names = ("version", "done", "total", "is_running", "told_at_us")
        news = {name: row.excluded[name] for name in names}
        upsert = row.on_conflict_do_update(index_elements=["project_id"], set_=news)

        def change(connection: Connection) -> None:
            connection.execute(upsert)

        store.submit(change)
