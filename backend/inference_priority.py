"""Predictions before training, across processes: one word of shared memory in the data folder.

Whoever predicts writes until when at most; whoever trains looks, and waits. Nobody waits for the
trainer, no call blocks, and a server that was killed in the middle of a prediction stops nobody for
longer than that. Two machines that share only a database do not see each other's file, and nobody
waits there.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.errors import StoppedError

_HOLD_S = 10.0  # longer predictions share the processor
_LOOK_S = 0.002
_MOST_STRETCHED = 3.0  # seconds of the wall for one of work, beside those waited
_BYTES = 8


class InferencePriority:
    """One such file; `clock` is the system's, the same in every process of a machine.

    Args:
        path: of the file; made where it is missing.
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
    def taken(self) -> Iterator[None]:
        """Has the right of way while the block runs; threads may be in it at once."""
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
    def is_taken(self) -> bool:
        """Whether somebody predicts now."""
        until_ns = int.from_bytes(self._memory[:_BYTES], "little")
        now_ns = time.monotonic_ns()
        # After a restart of the machine its clock begins anew, below what was written before.
        return now_ns < until_ns <= now_ns + round(_HOLD_S * 1e9)

    def close(self) -> None:
        """Gives the memory back."""
        self._memory.close()

    def _write(self, until_ns: int) -> None:
        self._memory[:_BYTES] = until_ns.to_bytes(_BYTES, "little")


class Yielding:
    """Waits while somebody predicts, but for no longer than its patience lasts.

    Args:
        right_of_way: shared with whoever predicts.
        patience_s: seconds it may wait between two calls of `renew`.
        stop: ends a wait, and whatever work calls this.

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
        self._right_of_way, self._patience_s, self._stop = inference_priority, patience_s, stop
        self._left_s = patience_s
        self.waited_s = 0.0
        self._began_s: tuple[float, float] | None = None  # wall and work when the clock began

    def renew(self) -> None:
        """Is as patient as at first, and begins its clock anew, at the next look at it."""
        self._left_s = self._patience_s
        self._began_s = None

    def __call__(self) -> None:
        """Waits if it must.

        Raises:
            StoppedError: whoever asks was told to stop.
        """
        self._go_on()
        if not self._right_of_way.is_taken or self._left_s <= 0:
            return
        began = time.monotonic()
        while self._right_of_way.is_taken:
            time.sleep(_LOOK_S)
            self._go_on()
            if time.monotonic() - began >= self._left_s:
                break
        waited_s = time.monotonic() - began
        self._left_s -= waited_s
        self.waited_s += waited_s

    def _go_on(self) -> None:
        if self._stop():
            raise StoppedError("told to stop")

    def working_s(self) -> float:
        """A clock of work: seconds the calling thread had a processor, from the first call on.

        It stands still while it waits, and hardly moves while others keep the processor, so that a
        busy machine learns no less; but a third of the wall's seconds count, so that work ends.
        """
        wall_s, worked_s = time.monotonic() - self.waited_s, time.thread_time()
        if self._began_s is None:
            self._began_s = wall_s, worked_s
        began_s, begun_s = self._began_s
        return max(worked_s - begun_s, (wall_s - began_s) / _MOST_STRETCHED)

    def passing_s(self) -> float:
        """The same for work that no processor does: seconds of the wall beside those waited."""
        return time.monotonic() - self.waited_s

    def stretched(self, working_s: float) -> float:
        """How long some seconds of work take, as others have the processor now."""
        done_s = self.working_s()
        if self._began_s is None or done_s <= 0:
            return working_s
        wall_s = time.monotonic() - self.waited_s - self._began_s[0]
        return working_s * max(1.0, wall_s / done_s)
