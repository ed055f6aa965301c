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
