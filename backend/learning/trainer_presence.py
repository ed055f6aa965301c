"""Which trainers are running: each writes its name to the database every few seconds.

A trainer that was killed stays listed until it has been silent for 45 s, or disappears at once
where its process number can be checked from this machine.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Executable, delete, select

from backend.clock import from_us, now_us
from backend.errors import BackendError
from backend.process_identity import is_gone, owner_name
from backend.storage.store import Store
from backend.storage.tables import trainer

EVERY_S = 10.0
_SILENT_S = 45.0
_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class TrainerPresence:
    """One running trainer.

    Attributes:
        owner: name of the trainer, the same as in its runs.
        began_at: UTC.
        seen_at: UTC time of its last sign of life.
    """

    owner: str
    began_at: datetime
    seen_at: datetime


def present_trainers(store: Store) -> tuple[TrainerPresence, ...]:
    """Returns the running trainers, the oldest first.

    Raises:
        StoreError: the database cannot be read.
    """
    query = (
        select(trainer.c.owner, trainer.c.began_at_us, trainer.c.seen_at_us)
        .where(trainer.c.seen_at_us > store.time_us - round(_SILENT_S * 1e6))
        .order_by(trainer.c.began_at_us)
    )
    with store.read() as connection:
        rows = connection.execute(query).all()
    return tuple(
        TrainerPresence(owner, from_us(began_us), from_us(seen_us))
        for owner, began_us, seen_us in rows
        if not is_gone(owner)
    )


class Attendance:
    """A thread that reports this trainer as running.

    Args:
        store: the database.
        owner: name of this trainer.
        every_s: pause between two reports, in seconds.
    """

    def __init__(self, store: Store, *, owner: str = "", every_s: float = EVERY_S) -> None:
        self._store, self._owner, self._every_s = store, owner or owner_name(), every_s
        self._began_us = now_us()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="attendance", daemon=True)

    def start(self) -> None:
        """Starts the thread; returns at once."""
        self._thread.start()

    def close(self) -> None:
        """Stops the thread and removes this trainer from the list."""
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join()
        gone = delete(trainer).where(trainer.c.owner == self._owner)
        self._write(gone)

    def _run(self) -> None:
        while True:
            self._report()
            if self._is_over.wait(self._every_s):
                return

    def _report(self) -> None:
        seen_us = self._store.time_us
        row = self._store.insert(trainer).values(
            owner=self._owner, began_at_us=self._began_us, seen_at_us=seen_us
        )
        present = row.on_conflict_do_update(
            index_elements=["owner"], set_={"seen_at_us": row.excluded.seen_at_us}
        )
        long_gone = delete(trainer).where(trainer.c.seen_at_us < seen_us - round(_SILENT_S * 1e6))
        self._write(present, long_gone)

    def _write(self, *statements: Executable) -> None:
        def change(connection: Connection) -> None:
            for statement in statements:
                connection.execute(statement)

        try:
            self._store.write(change, timeout_s=_TIMEOUT_S)
        except BackendError:
            # The next report repeats this one, and no work depends on it.
            return
