"""What a check of a set-up found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: what was looked at.
        level: whether it works.
        found: what was found.
        fix: what to do about it, "" if nothing.
    """

    check: str
    level: Level
    found: str
    fix: str = ""
