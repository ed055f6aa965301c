"""The processes of a fleet on one machine: a node of Ray's cluster, web servers, other machines.

All are children of `calico fleet up` or `calico fleet join`, which start again what ends. What a
killed node leaves behind is found by the token file that every process of a fleet has in its
environment.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from backend.errors import FleetError
from backend.learning.supervisor import TrainerWatch
from backend.settings import Settings

TOKEN_VARIABLE = "RAY_AUTH_TOKEN_PATH"
_RAY = (sys.executable, "-c", "from ray.scripts.scripts import main; main()")
_OBJECT_STORE = 256 * 2**20  # messages are small and do not go through it
_STOP_S = 20.0
_READY_S = 300.0
_POLL_S = 0.2


@dataclass(frozen=True)
class FleetFolder:
    """Files of a fleet on this machine, below the data folder.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def token_file(self) -> Path:
        """The secret that every process of the fleet shows to the others."""
        return self.path / "token"

    @property
    def state_file(self) -> Path:
        """Number of the process of `calico fleet up` and the address of the fleet."""
        return self.path / "fleet.json"

    def make_token(self) -> None:
        """Writes a token, if there is none, readable for this user alone."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.token_file.exists():
            self.token_file.touch(0o600, exist_ok=False)
            self.token_file.write_text(secrets.token_hex(32), encoding="utf-8")

    def write_state(self, address: str) -> None:
        """Notes that this process holds the fleet."""
        state = {"pid": os.getpid(), "address": address}
        self.state_file.write_text(json.dumps(state), encoding="utf-8")

    def read_state(self) -> tuple[int, str] | None:
        """Returns the number of the holding process and the address; None without a fleet."""
        try:
            state = json.loads(self.state_file.read_text("utf-8"))
            holder, address = int(state["pid"]), str(state["address"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return (holder, address) if _is_holder(holder) else None

    def members(self) -> tuple[int, ...]:
        """Numbers of the processes on this machine that were started with our token file."""
        wanted = f"{TOKEN_VARIABLE}={self.token_file.absolute()}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it ended meanwhile, or belongs to another user
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return tuple(sorted(set(found) - {os.getpid()}))

    def clear(self) -> int:
        """Ends every process of the fleet on this machine; returns how many had to be killed."""
        _signal(self.members(), signal.SIGTERM)
        until = time.monotonic() + _STOP_S
        while self.members() and time.monotonic() < until:
            time.sleep(_POLL_S)
        left = self.members()
        _signal(left, signal.SIGKILL)
        return len(left)


def head_command(host: str, port: int, *, slots: int, dashboard: bool) -> list[str]:
    """Returns the command line of the first node; it runs until it is told to end.

    Args:
        host: address of this machine for the others.
        port: of the head.
        slots: replicas and trainers that fit here, by the cores each counts for.
        dashboard: whether Ray's pages are shown, on loopback.
    """
    return [
        *_RAY,
        "start",
        "--head",
        f"--port={port}",
        "--dashboard-host=127.0.0.1",
        f"--include-dashboard={str(dashboard).lower()}",
        *_node_options(host, slots),
    ]


def node_command(address: str, host: str, *, slots: int | None) -> list[str]:
    """Returns the command line of another node; the arguments are those of `head_command`."""
    return [*_RAY, "start", f"--address={address}", *_node_options(host, slots)]


def web_command(settings: Settings, port: int) -> list[str]:
    """Returns the command line of a web server; it reads all else from the environment."""
    words = ["serve", "--no-trainer", "--host", settings.host, "--port", str(port)]
    return [sys.executable, "-m", "backend.cli", *words]


def host_command(shell: Sequence[str], host: str, address: str) -> list[str]:
    """Returns the command line that joins another machine, and ends there when it ends here."""
    return [*shell, host, "calico", "fleet", "join", "--address", address]


def address_towards(host: str, port: int) -> str:
    """Returns the address that this machine has for another one; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        return str(probe.getsockname()[0])


def is_listening(host: str, port: int) -> bool:
    """Whether something takes connections there."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def wait_until(is_met: Callable[[], bool], what: str, stop: threading.Event) -> None:
    """Waits for a condition.

    Raises:
        FleetError: it was not met in five minutes, or `stop` was set.
    """
    until = time.monotonic() + _READY_S
    while not is_met():
        if stop.wait(_POLL_S) or time.monotonic() > until:
            raise FleetError(f"{what}: not within {_READY_S:g} s, or stopped before")


def is_ready(port: int) -> bool:
    """Whether a web server answers predictions."""
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/health", timeout=2.0)
        return bool(answer.json().get("model") == "ready")
    except (httpx.HTTPError, ValueError):
        return False


def restart_in_turn(
    servers: Iterable[tuple[int, TrainerWatch]], stop: threading.Event, ready: Callable[[int], bool]
) -> None:
    """Restarts web servers one after another; the next one when the one before answers.

    Args:
        servers: pairs of port and watch, which starts the process again.
        stop: ends the waiting.
        ready: whether the server of a port answers.
    """
    for port, watch in servers:
        before = watch.process_id
        if before is not None:
            _signal((before,), signal.SIGTERM)
        wait_until(
            lambda port=port, watch=watch, before=before: (  # type: ignore[misc]
                watch.process_id not in (None, before) and ready(port)
            ),
            f"the web server on port {port}",
            stop,
        )


def _node_options(host: str, slots: int | None) -> list[str]:
    options = [
        f"--node-ip-address={host}",
        f"--object-store-memory={_OBJECT_STORE}",
        "--disable-usage-stats",
        "--block",
    ]
    return options if slots is None else [*options, f"--num-cpus={slots}"]


def _is_holder(process_id: int) -> bool:
    """Whether a process is alive, and one of `calico fleet`."""
    try:
        return b"fleet" in Path(f"/proc/{process_id}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _signal(process_ids: Iterable[int], number: signal.Signals) -> None:
    for process_id in process_ids:
        with suppress(ProcessLookupError):
            os.kill(process_id, number)
