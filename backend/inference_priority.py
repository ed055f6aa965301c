"""Inference priority: predictions run before training, across processes of one machine.

The processes share eight bytes of memory, a file in the data folder. A predicting process writes
the time at which its priority ends at the latest; a training process reads that time and yields.
No prediction waits for training and no call blocks. If a server is killed during a prediction, its
priority ends at the written time. Two machines that share only a database do not see each other's
file, so training on one does not wait for predictions on the other.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.errors import StoppedError

_HOLD_S = 10.0  # a longer prediction shares the processor
_POLL_S = 0.002
_MOST_STRETCHED = 3.0  # wall seconds per second of work, without the time spent waiting
_BYTES = 8


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
        self._lock = threading.Lock()  # guards _predictions
        self._predictions = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the priority while the block runs; several threads may hold it at once."""
        with self._lock:
            self._predictions += 1
            self._write(time.monotonic_ns() + round(_HOLD_S * 1e9))
        try:
            yield
        finally:
            with self._lock:
                self._predictions -= 1
                if not self._predictions:
                    self._write(0)

    @property
    def is_held(self) -> bool:
        """Whether some process predicts now."""
        until_ns = int.from_bytes(self._memory[:_BYTES], "little")
        now_ns = time.monotonic_ns()
        # After a restart of the machine the clock starts again below the time written before.
        return now_ns < until_ns <= now_ns + round(_HOLD_S * 1e9)

    def close(self) -> None:
        """Releases the shared memory."""
        self._memory.close()

    def _write(self, until_ns: int) -> None:
        self._memory[:_BYTES] = until_ns.to_bytes(_BYTES, "little")


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
