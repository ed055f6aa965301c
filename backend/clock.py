"""Times as the database stores them: whole microseconds since 1970-01-01 UTC."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_us(moment: datetime) -> int:
    """Returns the microseconds of a time in any time zone."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_us(moment_us: int) -> datetime:
    """Returns the time in UTC."""
    return _EPOCH + timedelta(microseconds=moment_us)


def now_us() -> int:
    """Returns the present time in microseconds."""
    return time.time_ns() // 1000


def parse_hours(text: str) -> tuple[int, int]:
    """Reads hours like 20-6: the first one, and the one after the last.

    Raises:
        ValueError: expected two hours from 0 to 24 that differ.
    """
    first, dash, end = text.partition("-")
    if not (dash and first.isdecimal() and end.isdecimal()):
        raise ValueError("expected two hours like 20-6")
    hours = int(first), int(end)
    if max(hours) > 24 or hours[0] == hours[1]:
        raise ValueError("expected two different hours from 0 to 24, like 20-6")
    return hours
