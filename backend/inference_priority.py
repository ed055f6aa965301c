"""Inference priority: predictions run before training, across processes of one machine.

The processes share a few hundred bytes of memory, a file in the data folder. Every prediction
writes the time at which its priority ends at the latest into a slot of its own; a training process
reads the slots and yields. No prediction waits for training and no call blocks. If a server is
killed during a prediction, its priority ends at the written time. Two machines that share only a
database do not see each other's file, so training on one does not wait for predictions on the
other.
"""

from __future__ import annotations

import mmap
import secrets
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.errors import StoppedError

_HOLD_S = 10.0  # a longer prediction shares the processor
_POLL_S = 0.002
_MOST_STRETCHED = 3.0  # wall seconds per second of work, without the time spent waiting
_SLOTS = 64  # predictions at once, of all processes
_SLOT = struct.Struct("q")
_BYTES = _SLOTS * _SLOT.size


class InferencePriority:
    """The shared file. Its times are `time.monotonic_ns`, equal in all processes of a machine.

    Args:
        path: of the file; created if it is missing.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("ab") as file:
            if file.tell() < _BYTES:
                file.truncate(_BYTES)
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _BYTES)
        self._lock = threading.Lock()  # guards the choice of a slot among threads
        # Processes begin to look for a free slot at different places, so that they need no lock.
        self._first = secrets.randbelow(_SLOTS)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the priority while the block runs; several threads may hold it at once."""
        with self._lock:
            now_ns = time.monotonic_ns()
            until_ns = now_ns + round(_HOLD_S * 1e9)
            place = self._free_place(now_ns)
            _SLOT.pack_into(self._memory, place, until_ns)
        try:
            yield
        finally:
            # A slot whose time was over may be another prediction's by now.
            if _SLOT.unpack_from(self._memory, place)[0] == until_ns:
                _SLOT.pack_into(self._memory, place, 0)

    @property
    def is_held(self) -> bool:
        """Whether some process predicts now."""
        now_ns = time.monotonic_ns()
        return any(_is_ahead(until_ns, now_ns) for (until_ns,) in self._slots())

    def close(self) -> None:
        """Releases the shared memory."""
        self._memory.close()

    def _slots(self) -> Iterator[tuple[int]]:
        return _SLOT.iter_unpack(self._memory[:_BYTES])

    def _free_place(self, now_ns: int) -> int:
        """Place in bytes of a slot whose time is over; if there is none, of any slot."""
        slots = [until_ns for (until_ns,) in self._slots()]
        places = [(self._first + number) % _SLOTS for number in range(_SLOTS)]
        free = (place for place in places if not _is_ahead(slots[place], now_ns))
        return next(free, self._first) * _SLOT.size


def _is_ahead(until_ns: int, now_ns: int) -> bool:
    # After a restart of the machine the clock starts again below the times written before.
    return now_ns < until_ns <= now_ns + round(_HOLD_S * 1e9)


class Yielding:
    """Makes training wait while a prediction runs, within a waiting budget.

    Args:
        inference_priority: shared with the predicting processes.
        patience_s: waiting budget in seconds between two calls of `renew`.
        stop: returns True to end a wait and the training that calls this object.

    Attributes:
        waited_s: seconds waited so far.
    """

    def __init__(
        self,
        inference_priority: InferencePriority,
        *,
        patience_s: float = 30.0,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._inference_priority = inference_priority
        self._patience_s, self._stop = patience_s, stop
        self._left_s = patience_s
        self.waited_s = 0.0
        self._began_s: tuple[float, float] | None = None  # wall and work when the clock began

    def renew(self) -> None:
        """Resets the waiting budget and the work clock, which starts with its next reading."""
        self._left_s = self._patience_s
        self._began_s = None

    def __call__(self) -> None:
        """Waits while a prediction runs and the budget lasts.

        Raises:
            StoppedError: `stop` returned True.
        """
        self._check_stop()
        if not self._inference_priority.is_held or self._left_s <= 0:
            return
        began = time.monotonic()
        while self._inference_priority.is_held:
            time.sleep(_POLL_S)
            self._check_stop()
            if time.monotonic() - began >= self._left_s:
                break
        waited_s = time.monotonic() - began
        self._left_s -= waited_s
        self.waited_s += waited_s

    def _check_stop(self) -> None:
        if self._stop():
            raise StoppedError("told to stop")

    def working_s(self) -> float:
        """Work clock for a CPU: processor seconds of the calling thread since the first call.

        The clock stands still during a wait and runs slowly while other threads have the processor,
        so that a busy machine learns as much as an idle one. At least a third of the wall time
        counts, so that the work ends.
        """
        wall_s, worked_s = time.monotonic() - self.waited_s, time.thread_time()
        if self._began_s is None:
            self._began_s = wall_s, worked_s
        began_wall_s, began_worked_s = self._began_s
        return max(worked_s - began_worked_s, (wall_s - began_wall_s) / _MOST_STRETCHED)

    def passing_s(self) -> float:
        """Work clock for a GPU: wall seconds without the time spent waiting."""
        return time.monotonic() - self.waited_s

    def stretched(self, working_s: float) -> float:
        """Wall seconds that `working_s` seconds of work take at the present load."""
        done_s = self.working_s()
        if self._began_s is None or done_s <= 0:
            return working_s
        wall_s = time.monotonic() - self.waited_s - self._began_s[0]
        return working_s * max(1.0, wall_s / done_s)
