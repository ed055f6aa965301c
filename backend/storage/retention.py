"""How long the journal keeps what annotators have since changed: 30 days.

Corrections are derived from the newest state of every annotation alone, so the bodies of earlier
states are emptied. Their rows stay for good: the keys in them make a late delivery harmless.
Used by the writer thread alone, in small steps between commits.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Connection, and_, func, select, update

from backend.clock import now_us
from backend.storage.tables import ann_head, event_log

KEPT_DAYS = 30
_EVERY_S = 3600.0
_ROWS_PER_STEP = 200


class OldBodies:
    """Looks through the journal once an hour.

    Args:
        kept_days: how long ago a body must have been received, by this machine's clock.
        clock: seconds that only rise.
    """

    def __init__(
        self, *, kept_days: float = KEPT_DAYS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._kept_us = round(kept_days * 86_400e6)
        self._clock = clock
        self._next_s = clock()
        self._place: int | None = None  # in the journal; None between two passes

    @property
    def is_due(self) -> bool:
        """Whether `prune` has something to do; asks no database."""
        return self._place is not None or self._clock() >= self._next_s

    def prune(self, connection: Connection) -> None:
        """Empties the next few bodies of states that are not the newest any more."""
        old = event_log.c.received_at_us < now_us() - self._kept_us
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
                old,
                func.length(event_log.c.payload) > 0,
                ann_head.c.key.is_(None),
            )
            .order_by(event_log.c.seq)
            .limit(_ROWS_PER_STEP)
        )
        found = list(connection.execute(query).scalars())
        if found:
            emptied = update(event_log).where(event_log.c.seq.in_(found)).values(payload=b"")
            connection.execute(emptied)
        self._place = found[-1] if len(found) == _ROWS_PER_STEP else None
        if self._place is None:
            self._next_s = self._clock() + _EVERY_S
