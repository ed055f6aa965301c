"""Training runs in the database: leased by one trainer, never two per project.

A run is its own fence: its trainer writes "where the run is still running and mine", and sees from
the row count that another trainer took the run over. A trainer that died loses its runs at once if
its process number can be checked from here, else when the lease ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, func, select, update
from sqlalchemy.exc import IntegrityError

from backend.clock import from_us, now_us, to_us
from backend.errors import BusyError, LeaseLostError, StoreError
from backend.learning.schedule import Cause, PastRun, RunState
from backend.process_identity import is_gone, owner_name
from backend.storage.store import Store
from backend.storage.tables import event_log, train_request, training_run
from backend.types import EventAction

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

LEASE_S = 60.0
HEARTBEAT_S = 10.0
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class TrainingRun:
    """One run.

    Attributes:
        id: grows with every run.
        project_id: Label Studio's project id.
        cause: why the run was started.
        state: running, or how the run ended.
        owner: the trainer, `owner_name` of its process.
        lease_until: UTC; afterwards another trainer may take the run over.
        stage: the present step, in words.
        progress: finished share of the stage in [0, 1].
        eta_s: seconds to the end of the stage, or None.
        upto_seq: newest place in the journal that the run has read.
        adapter_id: the candidate, or None before there is one.
        error: why the run failed, or None.
        began_at: UTC.
        ended_at: UTC, or None.
    """

    id: int
    project_id: int
    cause: Cause
    state: RunState
    owner: str
    lease_until: datetime
    stage: str
    progress: float
    eta_s: float | None
    upto_seq: int
    adapter_id: str | None
    error: str | None
    began_at: datetime
    ended_at: datetime | None


class RunRepository:
    """Reads and writes runs and requests for them. Threads may share it.

    Args:
        store: the database.
        owner: name of this trainer.
        lease_s: seconds for which a claim holds without a heartbeat.
    """

    def __init__(self, store: Store, *, owner: str = "", lease_s: float = LEASE_S) -> None:
        self.store = store
        self._owner = owner or owner_name()
        self._lease_us = round(lease_s * 1e6)

    def request(self, project_id: int) -> None:
        """Requests a training of a project; a newer request replaces an older one."""
        row = self.store.insert(train_request).values(
            project_id=project_id, requested_at_us=now_us()
        )
        newest = {"requested_at_us": row.excluded.requested_at_us}
        request = row.on_conflict_do_update(index_elements=["project_id"], set_=newest)
        self._write(lambda connection: connection.execute(request).rowcount)

    def requested_us(self, project_id: int) -> int | None:
        """Time of the newest request, in microseconds since 1970 UTC, or None."""
        query = select(train_request.c.requested_at_us).where(
            train_request.c.project_id == project_id
        )
        with self.store.read() as connection:
            return connection.execute(query).scalar()

    def button_us(self, project_id: int) -> int | None:
        """Time of the newest press of Label Studio's training button, in microseconds, or None."""
        query = select(func.max(event_log.c.received_at_us)).where(
            event_log.c.project_id == project_id,
            event_log.c.action == EventAction.START_TRAINING.value,
        )
        with self.store.read() as connection:
            return connection.execute(query).scalar()

    def newest_seq(self) -> Mapping[int, int]:
        """By project id, the newest place in the journal."""
        query = select(event_log.c.project_id, func.max(event_log.c.seq)).group_by(
            event_log.c.project_id
        )
        with self.store.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def runs(self, project_id: int | None = None, *, limit: int = 50) -> tuple[TrainingRun, ...]:
        """Runs of a project, or of all, newest first."""
        query = select(training_run).order_by(training_run.c.id.desc()).limit(limit)
        if project_id is not None:
            query = query.where(training_run.c.project_id == project_id)
        with self.store.read() as connection:
            return tuple(_run(row) for row in connection.execute(query).mappings())

    def past(self, project_id: int) -> tuple[PastRun, ...]:
        """Runs of a project as the schedule uses them, newest first."""
        columns = training_run.c
        query = (
            select(
                columns.state,
                columns.began_at_us,
                columns.ended_at_us,
                columns.upto_seq,
                columns.cause,
            )
            .where(columns.project_id == project_id)
            .order_by(columns.id.desc())
            .limit(50)
        )
        with self.store.read() as connection:
            return tuple(
                PastRun(RunState(state), began_us, ended_us, seq, Cause(cause))
                for state, began_us, ended_us, seq, cause in connection.execute(query)
            )

    def running(self) -> tuple[TrainingRun, ...]:
        """Runs that have not ended, of all projects."""
        query = select(training_run).where(training_run.c.state == RunState.RUNNING.value)
        with self.store.read() as connection:
            return tuple(_run(row) for row in connection.execute(query).mappings())

    def abandon_dead(self) -> int:
        """Ends runs whose trainer is gone or whose lease has ended; returns their number."""
        dead, columns = self._dead(), training_run.c
        # A lease that was renewed since it was read belongs to a running trainer.
        ends = [
            update(training_run)
            .where(
                columns.id == run.id,
                columns.state == RunState.RUNNING.value,
                columns.lease_until_us == to_us(run.lease_until),
            )
            .values(
                state=RunState.ABANDONED.value,
                ended_at_us=now_us(),
                error="its trainer ended without a word",
            )
            for run in dead
        ]

        def change(connection: Connection) -> int:
            return sum(connection.execute(end).rowcount for end in ends)

        return self._write(change) if dead else 0

    def claim(self, project_id: int, cause: Cause) -> int | None:
        """Begins a run; returns its id, or None if another trainer is training the project."""
        row = training_run.insert().values(
            project_id=project_id,
            cause=cause.value,
            state=RunState.RUNNING.value,
            owner=self._owner,
            lease_until_us=self._lease_end,
            stage="starting",
            progress=0.0,
            upto_seq=-1,
            began_at_us=now_us(),
        )

        def begin(connection: Connection) -> int | None:
            try:
                with connection.begin_nested():
                    key = connection.execute(row).inserted_primary_key
            except IntegrityError:
                return None
            return None if key is None else int(key[0])

        return self._write(begin)

    def renew(self, run_id: int) -> None:
        """Extends the lease of a run.

        Raises:
            LeaseLostError: another trainer has taken the run over.
        """
        self._change(run_id, lease_until_us=self._lease_end)

    def report(
        self, run_id: int, *, stage: str, progress: float = 0.0, eta_s: float | None = None
    ) -> None:
        """Writes the progress of a run, if the database can take it; raises LeaseLostError."""
        try:
            self._change(run_id, stage=stage, progress=progress, eta_s=eta_s)
        except (BusyError, StoreError) as error:
            # Minutes of work must not be lost because a progress report failed.
            _log.warning("progress cannot be recorded: %s", error, extra={"event": "report_lost"})

    def note(self, run_id: int, **values: object) -> None:
        """Writes `upto_seq` or `adapter_id` of a run; raises LeaseLostError."""
        self._change(run_id, **values)

    def end(self, run_id: int, state: RunState, *, error: str | None = None) -> None:
        """Ends a run; raises LeaseLostError."""
        self._change(
            run_id, state=state.value, error=error, ended_at_us=now_us(), eta_s=None, progress=1.0
        )

    def hold(self, connection: Connection, run_id: int, **values: object) -> None:
        """Writes to a run inside the caller's transaction, which fails if the run is lost.

        Raises:
            LeaseLostError: another trainer has taken the run over.
        """
        columns = training_run.c
        change = (
            update(training_run)
            .where(
                columns.id == run_id,
                columns.state == RunState.RUNNING.value,
                columns.owner == self._owner,
            )
            .values(**values)
        )
        if connection.execute(change).rowcount != 1:
            raise LeaseLostError(f"run {run_id} is no longer ours")

    def _change(self, run_id: int, **values: object) -> None:
        def change(connection: Connection) -> int:
            self.hold(connection, run_id, **values)
            return 1

        self._write(change)

    def _dead(self) -> list[TrainingRun]:
        """Runs that no trainer works at any more."""
        columns = training_run.c
        has_ended = (columns.lease_until_us < self.store.time_us).label("has_ended")
        query = select(training_run, has_ended).where(columns.state == RunState.RUNNING.value)
        with self.store.read() as connection:
            rows = list(connection.execute(query).mappings())
        return [_run(row) for row in rows if row["has_ended"] or self._is_gone(row["owner"])]

    @property
    def _lease_end(self) -> ColumnElement[int]:
        return self.store.time_us + self._lease_us

    def _is_gone(self, owner: str) -> bool:
        return owner != self._owner and is_gone(owner)

    def _write(self, change: Callable[[Connection], _T]) -> _T:
        return self.store.write(change, timeout_s=_TIMEOUT_S)


def _run(row: Mapping[Any, Any]) -> TrainingRun:
    ended_us = row["ended_at_us"]
    return TrainingRun(
        id=row["id"],
        project_id=row["project_id"],
        cause=Cause(row["cause"]),
        state=RunState(row["state"]),
        owner=row["owner"],
        lease_until=from_us(row["lease_until_us"]),
        stage=row["stage"],
        progress=row["progress"],
        eta_s=row["eta_s"],
        upto_seq=row["upto_seq"],
        adapter_id=row["adapter_id"],
        error=row["error"],
        began_at=from_us(row["began_at_us"]),
        ended_at=None if ended_us is None else from_us(ended_us),
    )
