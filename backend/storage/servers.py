"""The servers on one database: which of them are there, and which one does what is done once.

Each server reports itself every few seconds and asks for the roles it could take, in the same
transaction. A role belongs to one server until that server has been silent for `SILENT_S`; then
the next one that asks gets it. Times are those of the database's clock, so the clocks of the
machines need not agree. A SQLite file has one server: it leads everything and reports nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, or_, select

from backend.clock import from_us
from backend.errors import BackendError
from backend.process_identity import is_gone, owner_name
from backend.storage.store import Store
from backend.storage.tables import leader, server

_log = logging.getLogger(__name__)
SILENT_S = 15.0
EVERY_S = 4.0
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class ServerReport:
    """What a server says of itself.

    Attributes:
        release: version of the installed package.
        weights: version of the loaded base weights, None while they load.
        model: state of the model: loading, ready or failed.
        waiting: tasks that wait for the model.
    """

    release: str
    weights: str | None
    model: str
    waiting: int


@dataclass(frozen=True)
class ServerPresence:
    """One running server.

    Attributes:
        owner: name of its process.
        report: its last report.
        roles: what it alone does at present.
        began_at: UTC.
        seen_at: UTC time of its last report.
    """

    owner: str
    report: ServerReport
    roles: tuple[str, ...]
    began_at: datetime
    seen_at: datetime


def present_servers(store: Store) -> tuple[ServerPresence, ...]:
    """Returns the running servers of a shared database, the oldest first; () of a SQLite file.

    Raises:
        StoreError: the database cannot be read.
    """
    if not store.is_shared:
        return ()
    is_there = server.c.seen_at_us > store.time_us - _us(SILENT_S)
    with store.read() as connection:
        rows = connection.execute(select(server).where(is_there).order_by(server.c.began_at_us))
        found = list(rows.mappings())
        held = connection.execute(select(leader.c.role, leader.c.owner)).all()
    return tuple(
        ServerPresence(
            row["owner"],
            ServerReport(row["release"], row["weights"], row["model"], row["waiting"]),
            tuple(sorted(role for role, owner in held if owner == row["owner"])),
            from_us(row["began_at_us"]),
            from_us(row["seen_at_us"]),
        )
        for row in found
    )


class ServerMembership:
    """A thread that reports this server and renews its roles; does nothing on a SQLite file.

    Args:
        store: the database.
        report: what to say of this server.
        owner: name of this server.
        every_s: pause between two reports.
        silent_s: after which others count this server as gone.
    """

    def __init__(
        self,
        store: Store,
        report: Callable[[], ServerReport],
        *,
        owner: str = "",
        every_s: float = EVERY_S,
        silent_s: float = SILENT_S,
    ) -> None:
        self._store, self._report, self.owner = store, report, owner or owner_name()
        self._every_s, self._silent_s = every_s, silent_s
        self._lock = threading.Lock()  # guards _leads_until
        self._leads_until: dict[str, float] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="membership", daemon=True)

    def start(self) -> None:
        """Starts the thread; returns at once."""
        if self._store.is_shared:
            self._thread.start()

    def close(self) -> None:
        """Stops the thread and gives up every role at once."""
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join()
            self._leads_until.clear()
            self._write(
                lambda connection: _leave(connection, self.owner), "server_left_without_word"
            )

    def leads(self, role: str) -> bool:
        """Whether this server alone has a role now; asking also applies for it.

        True of every role on a SQLite file. A process that stood still finds out here that it has
        lost its roles, because the time is this machine's.
        """
        if not self._store.is_shared:
            return True
        with self._lock:
            return time.monotonic() < self._leads_until.setdefault(role, 0.0)

    def role(self, name: str) -> Callable[[], bool]:
        """Returns a function that tells whether this server has a role."""
        self.leads(name)
        return lambda: self.leads(name)

    def beat(self) -> None:
        """Reports this server and asks for its roles once."""
        began = time.monotonic()
        with self._lock:
            wanted = tuple(sorted(self._leads_until))  # every server locks their rows in this order
        report = self._report()

        def change(connection: Connection) -> frozenset[str]:
            self._say(connection, report)
            self._drop_gone(connection)
            return frozenset(role for role in wanted if self._claim(connection, role))

        held = self._write(change, "server_report_failed")
        if held is None:
            return  # until the roles are over, others rely on us
        with self._lock:
            for role in wanted:
                # Less than what others grant us: our clock may run a little slower.
                until = began + 0.9 * self._silent_s if role in held else 0.0
                self._note(role, until)

    def _note(self, role: str, until: float) -> None:
        is_new = self._leads_until[role] == 0.0 and until > 0.0
        self._leads_until[role] = until
        if is_new:
            _log.info("this server leads: %s", role, extra={"event": "role_taken", "role": role})

    def _say(self, connection: Connection, report: ServerReport) -> None:
        row = self._store.insert(server).values(
            owner=self.owner,
            release=report.release,
            weights=report.weights,
            model=report.model,
            waiting=report.waiting,
            began_at_us=self._store.time_us,
            seen_at_us=self._store.time_us,
        )
        news = {
            name: row.excluded[name]
            for name in ("release", "weights", "model", "waiting", "seen_at_us")
        }
        connection.execute(row.on_conflict_do_update(index_elements=["owner"], set_=news))
        long_gone = server.c.seen_at_us < self._store.time_us - _us(10 * self._silent_s)
        connection.execute(delete(server).where(long_gone))

    def _drop_gone(self, connection: Connection) -> None:
        """Takes the roles of servers whose process on this machine has certainly ended."""
        others = select(leader.c.owner).where(leader.c.owner != self.owner).distinct()
        for owner in list(connection.execute(others).scalars()):
            if is_gone(owner):
                _leave(connection, owner)

    def _claim(self, connection: Connection, role: str) -> bool:
        row = self._store.insert(leader).values(
            role=role, owner=self.owner, until_us=self._store.time_us + _us(self._silent_s)
        )
        news = {name: row.excluded[name] for name in ("owner", "until_us")}
        is_free = or_(leader.c.owner == self.owner, leader.c.until_us < self._store.time_us)
        claim = row.on_conflict_do_update(index_elements=["role"], set_=news, where=is_free)
        return connection.execute(claim.returning(leader.c.role)).first() is not None

    def _write(
        self, change: Callable[[Connection], Any], event: str
    ) -> Any:  # None if it could not be written
        try:
            return self._store.write(change, timeout_s=_TIMEOUT_S)
        except BackendError as error:
            _log.warning("servers: %s", error, extra={"event": event})
            return None

    def _run(self) -> None:
        while True:
            try:
                self.beat()
            except Exception:  # the next report repeats this one
                _log.exception("servers", extra={"event": "server_report_failed"})
            if self._is_over.wait(self._every_s):
                return


def living_owners(store: Store) -> frozenset[str]:
    """Names of the running servers of a shared database."""
    return frozenset(presence.owner for presence in present_servers(store))


def living_weights(servers: Iterable[ServerPresence]) -> frozenset[str]:
    """Versions of the base weights that running servers have loaded."""
    return frozenset(one.report.weights for one in servers if one.report.weights is not None)


def _leave(connection: Connection, owner: str) -> None:
    connection.execute(delete(leader).where(leader.c.owner == owner))
    connection.execute(delete(server).where(server.c.owner == owner))


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
