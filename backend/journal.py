"""Writes events to the journal and moves the heads; its statements are built once.

Building a statement costs SQLAlchemy more than running it, under the lock that all request threads
share. Used by the writer thread alone.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, bindparam, case, func

from backend.clock import to_us
from backend.tables import ann_head, event_log
from backend.types import Event

_GONE_US = 2**62  # a deletion is newer than any change


class Journal:
    """The `event_log` and `ann_head` tables.

    Args:
        insert: the database's own INSERT, which knows what to do about rows that are there already.
    """

    def __init__(self, insert: Any) -> None:
        add = insert(event_log).on_conflict_do_nothing(index_elements=["key"])
        self._add = add.returning(event_log.c.seq)
        row = insert(ann_head)
        # Events with equal times are ordered by key, so that arrival order cannot decide.
        newer = (row.excluded.version_us > ann_head.c.version_us) | (
            (row.excluded.version_us == ann_head.c.version_us) & (row.excluded.key > ann_head.c.key)
        )
        moved: dict[str, Any] = {
            name: case((newer, row.excluded[name]), else_=ann_head.c[name])
            for name in ("version_us", "deleted", "key")
        }
        # A deletion names no task: whichever event does so, before or after, tells it.
        moved["task_id"] = func.coalesce(row.excluded.task_id, ann_head.c.task_id)
        place = ["project_id", "annotation_id"]
        self._move_head = row.on_conflict_do_update(index_elements=place, set_=moved)
        again = event_log.update().where(event_log.c.key == bindparam("known_key"))
        self._tell_again = again.values(received_at_us=bindparam("now_us"))

    def record(self, connection: Connection, event: Event, received_us: int) -> int:
        """Journals one event; returns 1 if it is new, 0 if it was there already."""
        version_us = None if event.updated_at is None else to_us(event.updated_at)
        row = {
            "key": event.key,
            "project_id": event.project_id,
            "annotation_id": event.annotation_id,
            "task_id": event.task_id,
            "action": event.action.value,
            "updated_at_us": version_us,
            "payload": event.payload,
            "received_at_us": received_us,
        }
        is_new = connection.execute(self._add, row).first() is not None
        if not is_new and event.annotation_id is None:
            # The training button pressed again is a new wish, and a project may return to an
            # earlier state: nothing in such events tells the times apart.
            connection.execute(self._tell_again, {"known_key": event.key, "now_us": received_us})
        if is_new and event.annotation_id is not None:
            head = {
                "project_id": event.project_id,
                "annotation_id": event.annotation_id,
                "task_id": event.task_id,
                "version_us": _GONE_US if event.is_deletion else version_us or 0,
                "deleted": event.is_deletion,
                "key": event.key,
            }
            connection.execute(self._move_head, head)
        return int(is_new)
