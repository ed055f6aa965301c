"""Which trainers are there: each says so again and again, also while it has nothing to train.

A trainer that was killed stays in the list until it has been silent for long enough, or at once
where its process number can be seen.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Executable, delete, select

from backend.clock import from_us, now_us
from backend.errors import BackendError
from backend.learning.owner import is_gone, owner_name
from backend.storage.store import Store
from backend.storage.tables import trainer

EVERY_S = 10.0
_SILENT_S = 45.0
_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class TrainerPresence:
    """One trainer that is there.

    Attributes:
        owner: its name, as its runs have it.
        began_at: UTC.
        seen_at: UTC, when it last said so.
    """

    owner: str
    began_at: datetime
    seen_at: datetime


def present_trainers(store: Store) -> tuple[TrainerPresence, ...]:
    """Trainers that are there now, the oldest first.

    Raises:
        StoreError: the database cannot be read.
    """
    query = (
        select(trainer.c.owner, trainer.c.began_at_us, trainer.c.seen_at_us)
        .where(trainer.c.seen_at_us > now_us() - round(_SILENT_S * 1e6))
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
    """A thread that says this trainer is there.

    Args:
        store: the database.
        owner: this trainer.
        every_s: pause between two words.
    """

    def __init__(self, store: Store, *, owner: str = "", every_s: float = EVERY_S) -> None:
        self._store, self._owner, self._every_s = store, owner or owner_name(), every_s
        self._began_us = now_us()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="attendance", daemon=True)

    def start(self) -> None:
        """Begins; returns at once."""
        self._thread.start()

    def close(self) -> None:
        """Says that this trainer leaves."""
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join()
        gone = delete(trainer).where(trainer.c.owner == self._owner)
        self._say(gone)

    def _run(self) -> None:
        while True:
            self._check_in()
            if self._is_over.wait(self._every_s):
                return

    def _check_in(self) -> None:
        seen_us = now_us()
        row = self._store.insert(trainer).values(
            owner=self._owner, began_at_us=self._began_us, seen_at_us=seen_us
        )
        here = row.on_conflict_do_update(
            index_elements=["owner"], set_={"seen_at_us": row.excluded.seen_at_us}
        )
        long_gone = delete(trainer).where(trainer.c.seen_at_us < seen_us - round(_SILENT_S * 1e6))
        self._say(here, long_gone)

    def _say(self, *statements: Executable) -> None:
        def change(connection: Connection) -> None:
            for statement in statements:
                connection.execute(statement)

        try:
            self._store.write(change, timeout_s=_TIMEOUT_S)
        except BackendError:
            # The next word says the same; nobody's work depends on this one.
            return
