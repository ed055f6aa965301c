"""Predictions that Label Studio was promised: rows, so that a server's death breaks no promise.

A request that ends before its tasks are predicted says "not yet" for them. Before it says so, it
writes a row per task. The server that predicts them sends them and deletes the rows. Rows of a
server that is gone are worked off by the one server that leads: it asks Label Studio whether the
task still has no prediction, so nothing is stored twice.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select, update

from backend.errors import BackendError
from backend.process_identity import is_gone
from backend.serving.jobs import PredictionResult
from backend.serving.service import PredictionService
from backend.serving.studio import StudioTasks
from backend.storage.servers import living_owners
from backend.storage.store import Store
from backend.storage.tables import owed_answer
from backend.types import Task

_log = logging.getLogger(__name__)
_TIMEOUT_S = 5.0
_ROWS_PER_STATEMENT = 500
_MOST_EARLY = 10_000
_MOST_TRIES = 5
_GRACE_US = 5_000_000  # a server that has just started has not reported itself yet
_NOBODY = ""
_Place = tuple[int, int]


class OwedAnswers:
    """The promises of one server. Threads may share it.

    Args:
        store: the database.
        owner: name of this server.
    """

    def __init__(self, store: Store, owner: str) -> None:
        self._store, self._owner = store, owner
        self._lock = threading.Lock()  # guards all below, and the order in which rows are written
        self._ours: set[_Place] = set()
        self._foreign: set[_Place] = set()
        self._early: OrderedDict[_Place, None] = OrderedDict()

    def owe(self, tasks: Iterable[Task]) -> None:
        """Writes down tasks that are predicted later; returns after the commit.

        A task that another server owes stays that server's.
        """
        wanted = [place for task in tasks if (place := _place(task)) is not None]
        with self._lock:
            # A task may have been predicted and sent before we came to write it down.
            new = [place for place in wanted if place not in self._early]
            for place in wanted:
                self._early.pop(place, None)
            self._ours.update(new)
            if not new:
                return
            done = self._store.submit(lambda connection: self._insert(connection, new))
        try:
            foreign = done.result(timeout=_TIMEOUT_S)
        except Exception as error:  # they are sent all the same unless this server dies
            _log.warning("not written down: %s", error, extra={"event": "owed_not_kept"})
            return
        with self._lock:
            self._foreign |= foreign
            self._ours -= foreign

    def is_ours(self, task: Task) -> bool:
        """Whether this server sends a late prediction of a task."""
        return _place(task) not in self._foreign

    def settle(self, task: Task, *, is_late: bool = True) -> None:
        """Forgets a task that Label Studio has the prediction of, or that cannot be predicted.

        Args:
            task: the task.
            is_late: its request was answered "not yet", and may be about to write that down.
        """
        place = _place(task)
        if place is None:
            return
        with self._lock:
            self._foreign.discard(place)
            if place in self._ours:
                self._ours.discard(place)
                self._queue(lambda connection: _delete(connection, place, self._owner))
            elif is_late:
                self._early[place] = None
                while len(self._early) > _MOST_EARLY:
                    self._early.popitem(last=False)

    def release(self, task: Task) -> None:
        """Leaves a task to the server that leads, because this one could not send it."""
        place = _place(task)
        with self._lock:
            if place is None or place not in self._ours:
                return
            self._ours.discard(place)
            self._queue(lambda connection: _release(connection, place, self._owner))

    def end(self, task: Task, is_sent: bool) -> None:
        """Settles a task that was sent, or releases one that could not be."""
        if is_sent:
            self.settle(task)
        else:
            self.release(task)

    def _queue(self, change: Callable[[Connection], None]) -> None:
        try:
            self._store.submit(change)
        except BackendError as error:
            # The row stays: whoever works it off finds the prediction in Label Studio.
            _log.warning("still written down: %s", error, extra={"event": "owed_not_settled"})

    def _insert(self, connection: Connection, places: Sequence[_Place]) -> set[_Place]:
        """Writes rows that are not there; returns the places that are another server's."""
        foreign = set()
        for start in range(0, len(places), _ROWS_PER_STATEMENT):
            few = places[start : start + _ROWS_PER_STATEMENT]
            rows = [
                {"project_id": project, "task_id": task, "owner": self._owner}
                | {"owed_at_us": self._store.time_us, "tries": 0}
                for project, task in dict.fromkeys(few)
            ]
            insert = self._store.insert(owed_answer).values(rows)
            connection.execute(
                insert.on_conflict_do_nothing(index_elements=["project_id", "task_id"])
            )
            columns = owed_answer.c
            theirs = select(columns.project_id, columns.task_id).where(
                columns.owner != self._owner,
                columns.task_id.in_([task for _, task in few]),
            )
            found = {(row.project_id, row.task_id) for row in connection.execute(theirs)}
            foreign |= found & set(few)
        return foreign


@dataclass(frozen=True)
class _Owed:
    project_id: int
    task_id: int
    owner: str
    tries: int


class OwedAnswerWorker:
    """A thread that works off the rows of servers that are gone.

    Args:
        store: the database.
        owner: name of this server.
        service: predicts.
        studio: Label Studio.
        send: stores one prediction in Label Studio, unless it has it; may raise BackendError.
        leads: whether this server is the one of several that does it.
        every_s: pause between two looks at the rows.
    """

    def __init__(
        self,
        store: Store,
        owner: str,
        service: PredictionService,
        studio: StudioTasks,
        send: Callable[[Task, PredictionResult], None],
        *,
        leads: Callable[[], bool],
        every_s: float = 5.0,
    ) -> None:
        self._store, self._owner, self._service = store, owner, service
        self._studio, self._send, self._leads = studio, send, leads
        self._every_s = every_s
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="owed-answers", daemon=True)

    def start(self) -> None:
        """Starts the thread; returns at once."""
        self._thread.start()

    def close(self) -> None:
        """Stops after the task under way."""
        self._is_closed.set()

    def round(self) -> int:
        """Works off what is there now; returns how many predictions were sent."""
        sent = 0
        for owed in self._orphans():
            if self._is_closed.is_set() or not self._leads():
                break
            try:
                sent += self._work_off(owed)
            except BackendError as error:
                self._postpone(owed, error)
            else:
                self._forget(owed)
        return sent

    def _forget(self, owed: _Owed) -> None:
        self._write(lambda connection: _delete(connection, _at(owed), None))

    def _orphans(self) -> list[_Owed]:
        """Rows of servers that are gone, the oldest first."""
        columns, now_us = owed_answer.c, self._store.time_us
        query = (
            select(columns.project_id, columns.task_id, columns.owner, columns.tries)
            .where(columns.owner != self._owner, columns.owed_at_us <= now_us - self._grace_us)
            .order_by(columns.tries, columns.owed_at_us)
        )
        with self._store.read() as connection:
            rows = [_Owed(*row) for row in connection.execute(query)]
        if not rows or not self._store.is_shared:
            return rows
        living = living_owners(self._store)
        return [row for row in rows if row.owner not in living or is_gone(row.owner)]

    @property
    def _grace_us(self) -> int:
        return _GRACE_US if self._store.is_shared else 0

    def _work_off(self, owed: _Owed) -> int:
        version = self._service.current(owed.project_id)
        name = self._service.announced(version)
        if name is None:
            raise BackendError("the model is not loaded")
        page = self._studio.pending_task(owed.project_id, name, owed.task_id)
        if not page.tasks or page.tasks[0].problem is not None:
            return 0  # stored already, annotated, deleted, or never to be predicted
        (task,) = page.tasks
        result = self._service.predict_ahead(task, page.schema, version)
        if result is None:
            raise BackendError("it was not predicted")
        if result.problem is not None:
            if result.problem.is_lasting:
                return 0
            raise BackendError(result.problem.detail)
        if not self._leads():
            raise BackendError("another server leads by now")
        self._send(task, result)
        return 1

    def _postpone(self, owed: _Owed, error: BackendError) -> None:
        _log.warning(
            "task %s is still owed: %s", owed.task_id, error, extra={"event": "owed_later"}
        )
        if owed.tries + 1 >= _MOST_TRIES:
            self._forget(owed)
        else:
            self._write(lambda connection: _release(connection, _at(owed), owed.owner))

    def _write(self, change: Callable[[Connection], None]) -> None:
        self._store.write(change, timeout_s=30.0)

    def _run(self) -> None:
        while not self._is_closed.is_set():
            try:
                if self._leads() and (sent := self.round()):
                    _log.info("%d owed predictions sent", sent, extra={"event": "owed_sent"})
            except BackendError as error:
                _log.warning("owed predictions: %s", error, extra={"event": "owed_failed"})
            except Exception:  # the next round may do better
                _log.exception("owed predictions", extra={"event": "owed_failed"})
            self._is_closed.wait(self._every_s)


def _place(task: Task) -> _Place | None:
    return None if task.project_id is None or task.id is None else (task.project_id, task.id)


def _at(owed: _Owed) -> _Place:
    return owed.project_id, owed.task_id


def _delete(connection: Connection, place: _Place, owner: str | None) -> None:
    columns = owed_answer.c
    gone = delete(owed_answer).where(columns.project_id == place[0], columns.task_id == place[1])
    connection.execute(gone if owner is None else gone.where(columns.owner == owner))


def _release(connection: Connection, place: _Place, owner: str) -> None:
    columns = owed_answer.c
    mine = columns.project_id == place[0], columns.task_id == place[1], columns.owner == owner
    change = update(owed_answer).where(*mine).values(owner=_NOBODY, tries=columns.tries + 1)
    connection.execute(change)
