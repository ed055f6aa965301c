"""Starts the trainer process, and restarts it after it ended."""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

_log = logging.getLogger(__name__)
_STOP_TIMEOUT_S = 10.0
_MOST_PAUSE_S = 60.0
_HEALTHY_S = 60.0  # a process that ran so long did not fail at its start


class TrainerWatch:
    """A thread that keeps one child process alive.

    Args:
        command: the process must end on SIGTERM, and when its parent process is gone.
        pause_s: seconds before the first restart; doubled after each further failed start.
        name: of the process, for messages.
        on_death: called with the exit status.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        pause_s: float = 1.0,
        name: str = "trainer",
        on_death: Callable[[int], None] = lambda _status: None,
    ) -> None:
        self._command, self._first_pause_s = tuple(command), pause_s
        self._on_death, self._name = on_death, name
        self._is_closed = threading.Event()
        self._lock = threading.Lock()  # guards _process against a start during close
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="trainer-watch", daemon=True)

    def start(self) -> None:
        """Starts the process; returns at once."""
        self._thread.start()

    @property
    def process_id(self) -> int | None:
        """Number of the running process, or None."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def close(self) -> None:
        """Asks the process to end, and kills it after ten seconds."""
        self._is_closed.set()
        with self._lock:
            process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _run(self) -> None:
        pause_s = self._first_pause_s
        while not self._is_closed.is_set():
            began = time.monotonic()
            with self._lock:
                if self._is_closed.is_set():
                    return
                self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
            status = self._process.wait()
            if self._is_closed.is_set():
                return
            if time.monotonic() - began > _HEALTHY_S:
                pause_s = self._first_pause_s
            _log.error(
                "the %s ended with status %d; started again in %g s",
                self._name,
                status,
                pause_s,
                extra={"event": f"{self._name.split()[0]}_died", "status": status},
            )
            self._on_death(status)
            self._is_closed.wait(pause_s)
            pause_s = min(_MOST_PAUSE_S, 2 * pause_s)
