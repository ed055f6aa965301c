"""Upkeep of the database: deletes what is no longer needed, in small steps between commits.

Kept answers are bounded in rows and bytes, the oldest go first. Bodies of annotation states that
annotators have since changed are emptied after 30 days: corrections are derived from the newest
state of every annotation alone. The rows of these states stay for good, because the keys in them
make a late delivery harmless.

Used by the writer thread alone, so it needs no lock of its own; no webhook waits for a whole
clean-up. Where other servers write to the same database, one of them at a time deletes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Connection, and_, delete, func, select, update

from backend.clock import now_us
from backend.storage.database import take_upkeep_turn
from backend.storage.tables import ann_head, event_log, prediction

KEPT_DAYS = 30
_ANSWERS_PER_STEP = 32
_SPARE = 16  # a clean-up frees this fraction, so that it does not run for every answer
_UNSEEN = 32  # a server counts the table again after it added this fraction of the ceiling
_BODIES_EVERY_S = 3600.0
_BODIES_PER_STEP = 200


class Upkeep(Protocol):
    """Work that nobody waits for, done in small steps between commits."""

    @property
    def is_due(self) -> bool:
        """Whether a step is needed; must be quick."""

    def prune(self, connection: Connection) -> None:
        """Takes one step in a transaction of its own."""


class Chores:
    """Several kinds of upkeep as one; each step goes to the first that is due."""

    def __init__(self, *chores: Upkeep) -> None:
        self._chores = chores

    @property
    def is_due(self) -> bool:
        """Whether any of them needs a step."""
        return any(chore.is_due for chore in self._chores)

    def prune(self, connection: Connection) -> None:
        """Takes one step."""
        for chore in self._chores:
            if chore.is_due:
                chore.prune(connection)
                return


@dataclass
class _Size:
    rows: int
    nbytes: int

    def plus(self, other: _Size) -> _Size:
        return _Size(self.rows + other.rows, self.nbytes + other.nbytes)


class KeptAnswers:
    """Bounds the `prediction` table: counts the added answers and deletes the oldest.

    Args:
        max_rows: answers kept.
        max_bytes: bytes of their bodies.
        is_shared: other servers may add answers to the same table. Each then counts the table
            again and again, so that N servers exceed the ceiling by N/32 at most.
    """

    def __init__(self, *, max_rows: int, max_bytes: int, is_shared: bool = False) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._is_shared = is_shared
        self._size: _Size | None = None  # unknown until measured
        self._added = _Size(0, 0)  # since it was measured
        self._is_pruning = False

    def takes(self, body: bytes) -> bool:
        """Whether an answer may be kept at all."""
        return self._max_rows > 0 and len(body) <= self._max_bytes

    def add(self, connection: Connection, insert: Any, nbytes: int) -> None:
        """Runs the insert of one answer of `nbytes`."""
        # Not the row count: PostgreSQL's driver gives none for an INSERT that may do nothing.
        is_new = connection.execute(insert.returning(prediction.c.key)).first() is not None
        if is_new:
            self._added.rows += 1
            self._added.nbytes += nbytes

    @property
    def is_due(self) -> bool:
        """Whether `prune` has something to do; asks no database."""
        if self._size is None:
            return self._added.rows > 0
        if self._is_shared and self._added.rows > 0 and not self._is_pruning:
            share_rows, share_bytes = self._max_rows // _UNSEEN, self._max_bytes // _UNSEEN
            if self._added.rows >= share_rows or self._added.nbytes >= share_bytes:
                return True
        return self._is_pruning or not self._fits(self._size.plus(self._added))

    def prune(self, connection: Connection) -> None:
        """Takes one small step: counts the answers, or deletes a few of the oldest."""
        if self._is_shared:
            take_upkeep_turn(connection)
        if self._size is None or not self._is_pruning or self._is_shared:
            # Counted again before anything is deleted: an added answer may not be committed, and
            # another server may have deleted since.
            was_pruning = self._is_pruning
            self._size, self._added = _measure(connection), _Size(0, 0)
            self._is_pruning = not self._fits(self._size, spare=_SPARE if was_pruning else 0)
            if not (was_pruning and self._is_pruning):
                return
        oldest = connection.execute(
            select(prediction.c.key, func.length(prediction.c.body))
            .order_by(prediction.c.created_at_us)
            .limit(_ANSWERS_PER_STEP)
        )
        gone = []
        for key, nbytes in oldest:
            if self._fits(self._size, spare=_SPARE):
                break
            gone.append(key)
            self._size.rows -= 1
            self._size.nbytes -= nbytes
        connection.execute(delete(prediction).where(prediction.c.key.in_(gone)))
        self._is_pruning = bool(gone) and not self._fits(self._size, spare=_SPARE)

    def _fits(self, size: _Size, *, spare: int = 0) -> bool:
        rows, nbytes = self._max_rows, self._max_bytes
        if spare:
            rows, nbytes = rows - rows // spare, nbytes - nbytes // spare
        return size.rows <= rows and size.nbytes <= nbytes


def _measure(connection: Connection) -> _Size:
    query = select(func.count(), func.coalesce(func.sum(func.length(prediction.c.body)), 0))
    rows, nbytes = connection.execute(query.select_from(prediction)).one()
    return _Size(int(rows), int(nbytes))


class OldBodies:
    """Empties bodies of old annotation states; passes through the journal once an hour.

    Args:
        kept_days: age from which a body is emptied, by this machine's clock.
        clock: seconds, monotonic.
    """

    def __init__(
        self, *, kept_days: float = KEPT_DAYS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._kept_us = round(kept_days * 86_400e6)
        self._clock = clock
        self._next_s = clock()
        self._place: int | None = None  # place in the journal; None between two passes

    @property
    def is_due(self) -> bool:
        """Whether `prune` has something to do; asks no database."""
        return self._place is not None or self._clock() >= self._next_s

    def prune(self, connection: Connection) -> None:
        """Empties the next few bodies of states that are not the newest any more."""
        is_old = event_log.c.received_at_us < now_us() - self._kept_us
        is_newest = and_(
            ann_head.c.project_id == event_log.c.project_id,
            ann_head.c.annotation_id == event_log.c.annotation_id,
            ann_head.c.key == event_log.c.key,
        )
        query = (
            select(event_log.c.seq)
            .outerjoin(ann_head, is_newest)
            .where(
                event_log.c.seq > (self._place or 0),
                event_log.c.annotation_id.is_not(None),
                is_old,
                func.length(event_log.c.payload) > 0,
                ann_head.c.key.is_(None),
            )
            .order_by(event_log.c.seq)
            .limit(_BODIES_PER_STEP)
        )
        places = list(connection.execute(query).scalars())
        if places:
            emptied = update(event_log).where(event_log.c.seq.in_(places)).values(payload=b"")
            connection.execute(emptied)
        self._place = places[-1] if len(places) == _BODIES_PER_STEP else None
        if self._place is None:
            self._next_s = self._clock() + _BODIES_EVERY_S
