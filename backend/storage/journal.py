"""Writes events to the journal and moves the heads, the newest state of each annotation.

The order of receipt decides which state is the newest, not Label Studio's clock. Its times only
order two events that may have overtaken each other on the way, that is within seconds.

The statements are built once: building one costs SQLAlchemy more than running it, under the lock
that all request threads share. Used by the writer thread alone, under `take_turn`.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, select

from backend.clock import from_us, to_us
from backend.storage.tables import ann_head, event_log, relabelled
from backend.types import Event, EventAction

_log = logging.getLogger(__name__)
RACE_US = 5_000_000
"""Events received and stamped no further apart may arrive in the wrong order.

Label Studio sends each event once and gives up after a second.
"""
AHEAD_US = 300_000_000
"""A time so far ahead of this machine's clock is logged and not used for ordering."""
_CREATIONS = (EventAction.ANNOTATION_CREATED, EventAction.ANNOTATIONS_CREATED)


@dataclass(frozen=True)
class StoredEvent:
    """One journalled event.

    Attributes:
        seq: place in the journal, rising.
        received_at: UTC time of its first receipt; of an event without annotation, of its last.
        event: the event itself.
    """

    seq: int
    received_at: datetime
    event: Event


class Journal:
    """The `event_log` and `ann_head` tables.

    Args:
        insert: the dialect's INSERT, which supports ON CONFLICT.
    """

    def __init__(self, insert: Any) -> None:
        add = insert(event_log).on_conflict_do_nothing(index_elements=["key"])
        self._add = add.returning(event_log.c.seq)
        self._find_head = select(ann_head).where(
            ann_head.c.project_id == bindparam("project"),
            ann_head.c.annotation_id == bindparam("annotation"),
        )
        row = insert(ann_head)
        moved: dict[str, Any] = {
            name: row.excluded[name]
            for name in ("version_us", "deleted", "key", "received_us", "is_observed")
        }
        # A deletion names no task: an earlier or a later event does.
        moved["task_id"] = func.coalesce(row.excluded.task_id, ann_head.c.task_id)
        place = ["project_id", "annotation_id"]
        self._move_head = row.on_conflict_do_update(index_elements=place, set_=moved)
        same_head = (
            ann_head.c.project_id == bindparam("project"),
            ann_head.c.annotation_id == bindparam("annotation"),
        )
        self._name_task = ann_head.update().where(*same_head).values(task_id=bindparam("task"))
        again = event_log.update().where(event_log.c.key == bindparam("known_key"))
        self._tell_again = again.values(received_at_us=bindparam("now_us"))
        self._relabel = insert(relabelled).on_conflict_do_nothing(index_elements=["key"])
        columns = relabelled.c
        self._find_repeated = select(columns.repeats, columns.made_us, columns.journalled_us).where(
            columns.key == bindparam("known_key")
        )
        # In the form of the statement above.
        self._find_times = select(
            event_log.c.key, func.coalesce(event_log.c.updated_at_us, 0), event_log.c.received_at_us
        ).where(event_log.c.key == bindparam("known_key"))

    def record(self, connection: Connection, event: Event, received_us: int) -> int:
        """Journals an event that Label Studio sent; returns 1 if it is new, 0 if it was known."""
        is_new = self._keep(connection, event, received_us)
        if event.annotation_id is None:
            if not is_new:
                # The training button may be pressed again, and a project may return to an earlier
                # state: nothing in these events tells the repetitions apart.
                again = {"known_key": event.key, "now_us": received_us}
                connection.execute(self._tell_again, again)
            return int(is_new)
        head = self._head(connection, event)
        if not is_new:
            if not event.is_deletion or head is None or head.deleted:
                return 0
            # Deletions of one id are equal: this one deletes an annotation made after the first.
            event = replace(event, key=_key_after(event.key, head.key))
            is_new = self._keep(connection, event, received_us)
        if is_new and (head is None or _counts(event, head, received_us)):
            self._move(connection, event, head, received_us, is_observed=False)
        elif is_new and head is not None and head.task_id is None and event.task_id is not None:
            self._name(connection, event)
        return int(is_new)

    def observe(
        self, connection: Connection, event: Event, received_us: int, *, expected: str | None
    ) -> int:
        """Journals a state that Label Studio's API shows; it becomes the newest, whatever its time.

        Args:
            connection: in a transaction.
            event: the annotation's state, or its deletion.
            received_us: now, in microseconds since 1970 UTC.
            expected: key of the head that the state was compared with, None without a head; if the
                head has moved since, it is newer than the state, and nothing is changed.

        Returns:
            1 if the head has moved.
        """
        head = self._head(connection, event)
        if (None if head is None else head.key) != expected:
            return 0
        if not self._keep(connection, event, received_us):
            # The state was journalled before. It gets a second place, so that whoever reads on from
            # a place in the journal finds it.
            event = replace(event, key=_key_after(event.key, expected or ""))
            if not self._keep(connection, event, received_us):
                return 0
        self._move(connection, event, head, received_us, is_observed=True)
        return 1

    def relabel(
        self, connection: Connection, event: Event, received_us: int, *, before: str
    ) -> int:
        """Journals a state that differs from the one before in the names of labels alone.

        The webhook may have brought the same state already.

        Args:
            connection: in a transaction.
            event: the annotation's state with the new names.
            received_us: now, in microseconds since 1970 UTC.
            before: key of the head with the old names.

        Returns:
            1 if this state is the head now; 0 if somebody changed the annotation meanwhile.
        """
        head = self._head(connection, event)
        if head is None or head.key not in (before, event.key):
            return 0
        if head.key == before:
            self._keep(connection, event, received_us)
            is_observed = bool(head.is_observed)
            self._move(connection, event, head, received_us, is_observed=is_observed)
        earlier = {"known_key": before}
        repeated = connection.execute(self._find_repeated, earlier).first()
        if repeated is None:
            repeated = connection.execute(self._find_times, earlier).one()
        repeats, made_us, journalled_us = repeated
        row = {"key": event.key, "project_id": event.project_id, "repeats": repeats}
        times = {"made_us": made_us, "journalled_us": journalled_us}
        connection.execute(self._relabel, row | times)
        return 1

    def _keep(self, connection: Connection, event: Event, received_us: int) -> bool:
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
        if is_new and version_us is not None and version_us > received_us + AHEAD_US:
            _log.warning(
                "annotation %s of project %s is stamped %s, ahead of this machine's clock; "
                "the order of receipt decides",
                event.annotation_id,
                event.project_id,
                event.updated_at,
                extra={"event": "stamp_ahead", "project": event.project_id},
            )
        return is_new

    def _head(self, connection: Connection, event: Event) -> Row[Any] | None:
        place = {"project": event.project_id, "annotation": event.annotation_id}
        return connection.execute(self._find_head, place).first()

    def _move(
        self,
        connection: Connection,
        event: Event,
        head: Row[Any] | None,
        received_us: int,
        *,
        is_observed: bool,
    ) -> None:
        stamp_us = 0 if event.updated_at is None else to_us(event.updated_at)
        known_us = 0 if head is None else head.version_us
        moved = {
            "project_id": event.project_id,
            "annotation_id": event.annotation_id,
            "task_id": event.task_id,
            # A deletion has no time of its own: it takes that of the deleted state.
            "version_us": known_us if event.is_deletion else stamp_us,
            "deleted": event.is_deletion,
            "key": event.key,
            "received_us": received_us,
            "is_observed": is_observed,
        }
        connection.execute(self._move_head, moved)

    def _name(self, connection: Connection, event: Event) -> None:
        named = {
            "project": event.project_id,
            "annotation": event.annotation_id,
            "task": event.task_id,
        }
        connection.execute(self._name_task, named)


def _counts(event: Event, head: Row[Any], received_us: int) -> bool:
    """Whether an event that was received after the head is also newer than the head."""
    if event.is_deletion:
        return True
    stamp_us = 0 if event.updated_at is None else to_us(event.updated_at)
    is_near = abs(received_us - head.received_us) <= RACE_US
    if head.deleted:
        # The id may be in use again: a creation with a later time is not a late delivery.
        is_reborn = event.action in _CREATIONS and 0 < head.version_us < stamp_us
        return is_reborn or not is_near
    if is_near and 0 <= head.version_us - stamp_us <= RACE_US:
        return (stamp_us, event.key) > (head.version_us, head.key)
    return True


def _key_after(key: str, earlier: str) -> str:
    """Key of an event that is journalled once more, after another state."""
    return hashlib.sha256(f"{key}\nafter {earlier}".encode()).hexdigest()


def stored_event(row: Any) -> StoredEvent:
    """Reads one row of `event_log`."""
    updated_us = row["updated_at_us"]
    action = EventAction(row["action"])
    return StoredEvent(
        seq=row["seq"],
        received_at=from_us(row["received_at_us"]),
        event=Event(
            key=row["key"],
            action=action,
            project_id=row["project_id"],
            annotation_id=row["annotation_id"],
            task_id=row["task_id"],
            updated_at=None if updated_us is None else from_us(updated_us),
            is_deletion=action is EventAction.ANNOTATIONS_DELETED,
            payload=row["payload"],
        ),
    )
