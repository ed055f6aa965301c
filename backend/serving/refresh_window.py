"""When tasks are predicted again after a promotion: a few at once, the others at given hours.

A pass over a project of half a million tasks takes days of a GPU, and the next version makes it
worthless. So a limit may be set: the tasks the model is least sure of come first, because they are
annotated next; all others wait for hours in which nobody works.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

USUAL_AT_ONCE = 200


class RefreshWindow:
    """Decides how many tasks of a project may be predicted again now. Used by one thread.

    Args:
        at_once: tasks per project and version at any hour; None allows all.
        hours: first hour, and the hour after the last one, of the day in UTC, in which all others
            may follow; (20, 6) passes midnight. None is no hour at all.
        now: returns the present time in UTC.
    """

    def __init__(
        self,
        at_once: int | None = None,
        hours: tuple[int, int] | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if at_once is None and hours is not None:
            at_once = USUAL_AT_ONCE
        self._at_once, self._hours, self._now = at_once, hours, now
        self._done: dict[int, tuple[str, int]] = {}

    @property
    def is_open(self) -> bool:
        """Whether every task may be predicted now."""
        if self._at_once is None:
            return True
        if self._hours is None:
            return False
        first, end = self._hours
        hour = self._now().hour
        return first <= hour < end if first <= end else hour >= first or hour < end

    def left(self, project_id: int, version: str) -> int:
        """Returns how many tasks of a project may still be predicted outside of the hours."""
        known, done = self._done.get(project_id, ("", 0))
        return max(0, (self._at_once or 0) - (done if known == version else 0))

    def count(self, project_id: int, version: str) -> None:
        """Counts one task that was predicted outside of the hours."""
        known, done = self._done.get(project_id, ("", 0))
        self._done[project_id] = (version, done + 1 if known == version else 1)
