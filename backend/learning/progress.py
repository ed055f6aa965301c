"""How far a training is, told often enough for people and seldom enough for the database."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")
_EVERY_S = 1.0

OnProgress = Callable[[float, float | None], None]
"""Told the share that is done, in [0, 1], and the seconds that are left, if known."""


class Reports:
    """Lets one report in a while through: each is a commit."""

    def __init__(self, report: OnProgress) -> None:
        self._report, self._last_s = report, -_EVERY_S

    def __call__(self, share: float, eta_s: float | None) -> None:
        """Takes a report."""
        now_s = time.monotonic()
        if now_s - self._last_s >= _EVERY_S:
            self._last_s = now_s
            self._report(share, eta_s)


class Passes:
    """Counts the passes of a piece of work that has about so many of them."""

    def __init__(self, report: OnProgress, passes: int) -> None:
        self._report, self._passes, self._done = report, passes, 0
        self._began_s = time.monotonic()

    def __call__(self, found: _T) -> _T:
        """Takes what a pass found, and hands it back."""
        self._done = min(self._passes, self._done + 1)
        each_s = (time.monotonic() - self._began_s) / self._done
        self._report(self._done / self._passes, each_s * (self._passes - self._done))
        return found
