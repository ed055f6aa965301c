"""How long nobody waits for a source that did not answer in time.

The first time-out costs one request its budget. After it nobody waits while the late call is under
way; from the second time-out in a row on, nobody waits for a pause that doubles each time either.
Meanwhile requests are answered without the source, and one of their questions at a time is asked of
it in the background: the first that is answered within its budget ends the pause.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LONGEST_PAUSE_S = 120.0


class SourcePause:
    """Whether requests wait for one source. Threads may share it.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._calls = 0
        self._running: int | None = None  # number of the call under way
        self._began_s = 0.0
        self._late: int | None = None  # the call that was under way at the last time-out
        self._time_outs = 0  # in a row
        self._until_s = 0.0

    @property
    def is_over(self) -> bool:
        """Whether a request may wait for the source."""
        with self._lock:
            is_blocked = self._late is not None and self._running == self._late
            return not is_blocked and self._clock() >= self._until_s

    def running_s(self) -> float:
        """Returns how long the call under way lasts already; 0 without one."""
        with self._lock:
            return 0.0 if self._running is None else self._clock() - self._began_s

    def begin_call(self) -> None:
        """Notes that the source begins with a call."""
        with self._lock:
            self._calls += 1
            self._running, self._began_s = self._calls, self._clock()

    def end_call(self) -> None:
        """Notes that the source is done with a call."""
        with self._lock:
            self._running = None

    def note_time_out(self, budget_s: float) -> None:
        """Notes that a question was not answered within its budget, in seconds."""
        with self._lock:
            self._time_outs += 1
            self._late = self._running
            pause_s = 0.0 if self._time_outs == 1 else budget_s * 2.0 ** (self._time_outs - 1)
            self._until_s = self._clock() + min(pause_s, LONGEST_PAUSE_S)

    def note_answer(self) -> None:
        """Notes that a question was answered, or refused, within its budget: the pause ends."""
        with self._lock:
            self._time_outs, self._late, self._until_s = 0, None, 0.0
