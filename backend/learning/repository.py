"""Corrections in the database: derived rows, what they are derived from, and reconciling's state.

All writes go through the store's one writer thread. The tables `correction` and `region_outcome`
hold derived state: `forget` empties them and derivation.py fills them again. Decodes no mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Executable, delete, func, select, union

from backend.clock import from_us, now_us, to_us
from backend.decoding import read_json
from backend.label_studio.event import read_task_ids
from backend.learning.correction import Correction
from backend.learning.rows import (
    Cursor,
    Doubt,
    LiveHead,
    OutcomeRow,
    StartingPoint,
    TaskRow,
    clean,
    outcome_row,
    outcome_values,
    task_row,
    task_values,
)
from backend.storage.database import take_correction_turn
from backend.storage.journal import RACE_US
from backend.storage.store import Store
from backend.storage.tables import (
    ann_head,
    correction,
    doubt,
    event_log,
    prediction,
    region_outcome,
    relabelled,
    starting_point,
    sync_cursor,
)
from backend.types import EventAction

_TIMEOUT_S = 30.0
_ROWS_PER_WRITE = 500


class _KeptAnswer(msgspec.Struct):
    regions: msgspec.Raw


class CorrectionRepository:
    """Reads and writes corrections of one store. Threads may share it."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def projects(self) -> tuple[int, ...]:
        """Ids of all projects that ever sent an event or asked for a prediction."""
        known = union(
            select(event_log.c.project_id),
            select(prediction.c.project_id).where(prediction.c.project_id.is_not(None)),
        )
        with self.store.read() as connection:
            return tuple(sorted(connection.execute(known).scalars()))

    def heads(self, project_id: int, *, task_id: int | None = None) -> tuple[LiveHead, ...]:
        """Newest state of every annotation of a project or task, deleted annotations included."""
        placed_key = func.coalesce(relabelled.c.repeats, ann_head.c.key)
        query = (
            select(
                ann_head.c.annotation_id,
                ann_head.c.task_id,
                ann_head.c.key,
                ann_head.c.deleted,
                ann_head.c.version_us,
                event_log.c.seq,  # read from the index of the keys, so no body is read
                ann_head.c.received_us,
                ann_head.c.is_observed,
                relabelled.c.repeats,
                relabelled.c.made_us,
                relabelled.c.journalled_us,
            )
            .outerjoin(relabelled, relabelled.c.key == ann_head.c.key)
            .join(event_log, event_log.c.key == placed_key)
            .where(ann_head.c.project_id == project_id)
            .order_by(ann_head.c.annotation_id)
        )
        if task_id is not None:
            query = query.where(ann_head.c.task_id == task_id)
        with self.store.read() as connection:
            heads = tuple(_live_head(*row) for row in connection.execute(query))
        deleted_us = self._deleted_tasks(project_id)
        return tuple(_after_deletion(head, deleted_us.get(head.task_id)) for head in heads)

    def _deleted_tasks(self, project_id: int) -> Mapping[int | None, int]:
        """By task id, when its last deletion was received; its annotations are deleted with it."""
        action = EventAction.TASKS_DELETED.value
        query = select(event_log.c.key).where(
            event_log.c.project_id == project_id, event_log.c.action == action
        )
        with self.store.read() as connection:
            keys = tuple(connection.execute(query).scalars())
        deleted: dict[int | None, int] = {}
        for stored in map(self.store.find_event, keys):
            if stored is not None:
                received_us = to_us(stored.received_at)
                for task_id in read_task_ids(stored.event):
                    deleted[task_id] = max(received_us, deleted.get(task_id, 0))
        return deleted

    def doubts(self, project_id: int) -> tuple[Doubt, ...]:
        """Annotations that Label Studio contradicts and that are not confirmed yet."""
        columns = doubt.c
        query = (
            select(
                columns.annotation_id,
                columns.task_id,
                columns.head_key,
                columns.seen,
                columns.first_seen_us,
            )
            .where(columns.project_id == project_id)
            .order_by(columns.annotation_id)
        )
        with self.store.read() as connection:
            return tuple(Doubt(*row) for row in connection.execute(query))

    def replace_doubts(
        self, project_id: int, before: Iterable[Doubt], now: Iterable[Doubt]
    ) -> None:
        """Replaces the doubts `before` by those of `now`, in small writes."""
        old, new = set(before), set(now)
        gone = sorted(known.annotation_id for known in old - new)
        rows = [{"project_id": project_id} | asdict(current) for current in new - old]

        def forget(numbers: list[int]) -> Callable[[Connection], None]:
            mine = (doubt.c.project_id == project_id, doubt.c.annotation_id.in_(numbers))
            return lambda connection: connection.execute(delete(doubt).where(*mine)).close()

        insert = self.store.insert(doubt)
        newest = {name: insert.excluded[name] for name in Doubt.__dataclass_fields__}
        put = insert.on_conflict_do_update(
            index_elements=["project_id", "annotation_id"], set_=newest
        )

        def keep(portion: list[dict[str, object]]) -> Callable[[Connection], None]:
            return lambda connection: connection.execute(put, portion).close()

        for start in range(0, len(gone), _ROWS_PER_WRITE):
            self._write(forget(gone[start : start + _ROWS_PER_WRITE]))
        for start in range(0, len(rows), _ROWS_PER_WRITE):
            self._write(keep(rows[start : start + _ROWS_PER_WRITE]))

    def starting_point(self, project_id: int, annotation_id: int) -> StartingPoint | None:
        """The stored starting point of an annotation, or None."""
        columns = (starting_point.c.prediction_id, starting_point.c.version)
        query = select(*columns, starting_point.c.regions).where(
            starting_point.c.project_id == project_id,
            starting_point.c.annotation_id == annotation_id,
        )
        with self.store.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else StartingPoint(*row)

    def keep_starting_point(
        self, project_id: int, annotation_id: int, start: StartingPoint
    ) -> None:
        """Stores the starting point of an annotation; a stored one is never replaced."""
        row = self.store.insert(starting_point).values(
            project_id=project_id,
            annotation_id=annotation_id,
            prediction_id=start.prediction_id,
            version=clean(start.version),
            regions=start.regions,
            kept_at_us=now_us(),
        )
        insert = row.on_conflict_do_nothing(index_elements=["project_id", "annotation_id"])
        self._run(insert)

    def kept_answers(self, project_id: int, task_id: int) -> tuple[StartingPoint, ...]:
        """Kept answers of this backend for a task, newest first."""
        query = (
            select(prediction.c.version, prediction.c.body)
            .where(prediction.c.project_id == project_id, prediction.c.task_id == task_id)
            .order_by(prediction.c.created_at_us.desc())
        )
        with self.store.read() as connection:
            rows = connection.execute(query).all()
        return tuple(
            StartingPoint(None, version, bytes(read_json(body, _KeptAnswer).regions))
            for version, body in rows
        )

    def states(self, project_id: int) -> Mapping[int, str]:
        """By task id, the state that its derived row was made from."""
        query = select(correction.c.task_id, correction.c.state).where(
            correction.c.project_id == project_id
        )
        with self.store.read() as connection:
            return {row.task_id: row.state for row in connection.execute(query)}

    def put(self, project_id: int, row: TaskRow, derived: Correction | None) -> None:
        """Replaces the derived state of one task, in one transaction."""
        values = task_values(project_id, row, derived)
        outcomes = () if derived is None else derived.outcomes
        regions = [outcome_values(project_id, row.task_id, outcome) for outcome in outcomes]

        def change(connection: Connection) -> None:
            take_correction_turn(connection)
            _delete_task(connection, project_id, row.task_id)
            connection.execute(correction.insert(), values)
            if regions:
                connection.execute(region_outcome.insert(), regions)

        self._write(change)

    def drop(self, project_id: int, task_ids: Iterable[int]) -> None:
        """Removes the derived state of tasks that have no annotation any more."""
        gone = tuple(task_ids)

        def change(connection: Connection) -> None:
            take_correction_turn(connection)
            for task_id in gone:
                _delete_task(connection, project_id, task_id)

        if gone:
            self._write(change)

    def forget(self, project_id: int) -> None:
        """Removes the derived state of a project; deriving again restores it."""

        def change(connection: Connection) -> None:
            take_correction_turn(connection)
            for table in (region_outcome, correction):
                connection.execute(delete(table).where(table.c.project_id == project_id))

        self._write(change)

    def tasks(self, project_id: int) -> tuple[TaskRow, ...]:
        """Derived state of every task, ordered by task id."""
        query = (
            select(correction)
            .where(correction.c.project_id == project_id)
            .order_by(correction.c.task_id)
        )
        with self.store.read() as connection:
            return tuple(task_row(row) for row in connection.execute(query).mappings())

    def outcomes(self, project_id: int, task_id: int | None = None) -> tuple[OutcomeRow, ...]:
        """Outcomes of all regions of a project, or of one task."""
        query = select(region_outcome).where(region_outcome.c.project_id == project_id)
        if task_id is not None:
            query = query.where(region_outcome.c.task_id == task_id)
        query = query.order_by(*list(region_outcome.primary_key.columns))
        with self.store.read() as connection:
            return tuple(outcome_row(row) for row in connection.execute(query).mappings())

    def cursor(self, project_id: int) -> Cursor | None:
        """How far a project was compared with Label Studio, or None if never."""
        query = select(sync_cursor).where(sync_cursor.c.project_id == project_id)
        with self.store.read() as connection:
            row = connection.execute(query).mappings().first()
        if row is None:
            return None
        return Cursor(from_us(row["updated_at_us"]), from_us(row["last_ok_us"]))

    def move_cursor(self, project_id: int, updated_at: datetime) -> None:
        """Notes a successful comparison, and how far it came."""
        row = self.store.insert(sync_cursor).values(
            project_id=project_id, updated_at_us=to_us(updated_at), last_ok_us=now_us()
        )
        set_ = {name: row.excluded[name] for name in ("updated_at_us", "last_ok_us")}
        # Also backwards: once a clock that was ahead is corrected, later changes must be found.
        self._run(row.on_conflict_do_update(index_elements=["project_id"], set_=set_))

    def _run(self, statement: Executable) -> None:
        def change(connection: Connection) -> None:
            connection.execute(statement)

        self._write(change)

    def _write(self, change: Callable[[Connection], None]) -> None:
        self.store.write(change, timeout_s=_TIMEOUT_S)


def _live_head(*row: Any) -> LiveHead:
    """Reads one row of the query of heads."""
    *values, made_us, journalled_us = row
    head = LiveHead(*values)
    return head if head.repeats is None else replace(head, made_us=(made_us, journalled_us))


def _after_deletion(head: LiveHead, deleted_us: int | None) -> LiveHead:
    """Marks an annotation of a deleted task as deleted, unless it has a later event.

    Task ids may be used again. An event received within seconds of the deletion may have been sent
    before it, so it does not count as later.
    """
    if deleted_us is None or head.is_deleted:
        return head
    patience_us = 0 if head.is_observed else RACE_US
    if head.received_us > deleted_us + patience_us:
        return head
    return replace(head, is_deleted=True)


def _delete_task(connection: Connection, project_id: int, task_id: int) -> None:
    for table in (region_outcome, correction):
        connection.execute(
            delete(table).where(table.c.project_id == project_id, table.c.task_id == task_id)
        )
