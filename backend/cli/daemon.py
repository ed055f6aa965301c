"""A background process that outlives its command, and that a later command can stop.

The process holds a lock on its pid file while it lives. So a stale file, or another process with
the same number, is never mistaken for it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from backend.errors import BackendError

POLL_S = 0.1
STOP_TIMEOUT_S = 15.0


class DaemonError(BackendError):
    """A background process ended or did not answer in time."""


@dataclass(frozen=True)
class Daemon:
    """One background process with its pid file and log.

    Attributes:
        name: word for messages and file names.
        folder: where NAME.pid and NAME.log are kept.
    """

    name: str
    folder: Path

    @property
    def pid_file(self) -> Path:
        """File with the process number, locked while the process lives."""
        return self.folder / f"{self.name}.pid"

    @property
    def log_file(self) -> Path:
        """File with everything the process writes."""
        return self.folder / f"{self.name}.log"

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts the process in a session of its own, with exactly this environment.

        Raises:
            DaemonError: it is already running.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.pid_file.open("a+") as lock, self.log_file.open("wb") as log:
            if not _lock(lock.fileno()):
                raise DaemonError(f"{self.name} is already running, see {self.pid_file}")
            process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock.fileno(),),
            )
            lock.truncate(0)
            lock.write(str(process.pid))
        # The process is left behind on purpose; without this, Popen warns that it still runs.
        process.returncode = 0

    def is_running(self) -> bool:
        """Whether the process, or a process that it forked, is alive."""
        if not self.pid_file.exists():
            return False
        with self.pid_file.open("a+") as lock:
            return not _lock(lock.fileno())

    def stop(self) -> bool:
        """Ends the process and its children, by force after a while; returns whether it ran."""
        if not self.is_running():
            self.pid_file.unlink(missing_ok=True)
            return False
        group = int(self.pid_file.read_text())
        for wanted in (signal.SIGTERM, signal.SIGKILL):
            _signal_group(group, wanted)
            deadline = time.monotonic() + STOP_TIMEOUT_S
            while self.is_running() and time.monotonic() < deadline:
                _reap(group)
                time.sleep(POLL_S)
            if not self.is_running():
                break
        self.pid_file.unlink(missing_ok=True)
        return True

    def wait_until_up(self, url: str, timeout_s: float) -> None:
        """Waits until `url` answers 200.

        Raises:
            DaemonError: the process ended, or the time is over; with the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if _answers(url):
                return
            _reap(int(self.pid_file.read_text()))
            if not self.is_running():
                raise DaemonError(f"{self.name} ended at once; {self._log_end()}")
            time.sleep(POLL_S)
        raise DaemonError(
            f"{self.name}: {url} gave no answer in {timeout_s:g} s; {self._log_end()}"
        )

    def _log_end(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines()[-15:]
        return "\n".join([f"its log {self.log_file} ends with:", *lines])


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _signal_group(group: int, wanted: signal.Signals) -> None:
    try:
        os.killpg(group, wanted)
    except ProcessLookupError:
        return


def _reap(pid: int) -> None:
    # Only a child of this process can be our zombie; other processes are reaped by their parents.
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
