"""The `prediction` table, bounded in rows and bytes: the oldest answers go first.

Used by the writer thread alone, so it needs no lock. Answers are deleted in small steps between
commits, so that no webhook waits for a clean-up. Does not know what an answer says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, select

from backend.storage.tables import prediction

_ROWS_PER_STEP = 32
_SPARE = 16  # a clean-up frees this fraction, so that it does not run for every answer


@dataclass
class _Size:
    rows: int
    nbytes: int


class KeptAnswers:
    """Counts what is added and deletes what is too much.

    Args:
        max_rows: answers kept.
        max_bytes: bytes of their bodies.
    """

    def __init__(self, *, max_rows: int, max_bytes: int) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._size: _Size | None = None  # unknown until measured
        self._is_pruning = False
        self._has_added = False

    def takes(self, body: bytes) -> bool:
        """Whether an answer may be kept at all."""
        return self._max_rows > 0 and len(body) <= self._max_bytes

    def add(self, connection: Connection, insert: Any, nbytes: int) -> None:
        """Runs the insert of one answer of `nbytes`."""
        # Not the row count: PostgreSQL's driver knows none of an INSERT that may do nothing.
        is_new = connection.execute(insert.returning(prediction.c.key)).first() is not None
        self._has_added = True
        if self._size is not None and is_new:
            self._size.rows += 1
            self._size.nbytes += nbytes

    @property
    def is_due(self) -> bool:
        """Whether `prune` has something to do; asks no database."""
        if self._size is None:
            return self._has_added
        return self._is_pruning or not self._fits(self._size)

    def prune(self, connection: Connection) -> None:
        """Takes one small step: counts the answers, or deletes a few of the oldest."""
        if self._size is None or not self._is_pruning:
            # Counted again before anything goes: what was added may never have been committed.
            self._size = _measure(connection)
            self._is_pruning = not self._fits(self._size)
            return
        oldest = connection.execute(
            select(prediction.c.key, func.length(prediction.c.body))
            .order_by(prediction.c.created_at_us)
            .limit(_ROWS_PER_STEP)
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
