"""`calico fleet` in processes of its own, on loopback, with a PostgreSQL and images of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from backend.fleet.machine import FleetFolder
from backend.settings import describe_settings
from backend.storage.servers import present_servers
from backend.storage.store import open_store
from research.bench.balancer import running_balancer
from research.bench.fleet import ready_database
from research.bench.server import BenchServer

SOON_S = 400.0
_CLICK = "ServeReplica:click"
_CONTROLLER = "ServeController"
_SIZE = ("--click", "2", "--most-batch", "1", "--trainers", "0", "--cpus", "0.6")


@dataclass
class RunningFleet:
    """A fleet of two web servers and two click replicas.

    Attributes:
        folder: of all its files.
        address: of its head.
        ports: of its web servers.
        balancer: in front of them.
        database_url: of its PostgreSQL.
        environment: of all its commands.
    """

    folder: Path
    address: str
    ports: tuple[int, int]
    balancer: BenchServer
    database_url: str
    environment: dict[str, str]
    log: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def web(self) -> BenchServer:
        """The first web server, without the balancer."""
        return BenchServer(self.ports[0], self.balancer.files)

    def calico(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs `calico fleet WORDS` to its end."""
        return subprocess.run(
            [*_calico(*words), *self._places("head")],
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=SOON_S * 2,
        )

    def start(self, *words: str, data: str) -> subprocess.Popen[bytes]:
        """Starts `calico fleet WORDS`, which runs until the fleet ends."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*_calico(*words), *self._places(data)],
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        self.started.append(process)
        return process

    def _places(self, data: str) -> list[str]:
        return ["--data-dir", str(self.folder / data), "--address", self.address]

    def members(self) -> list[psutil.Process]:
        """All processes of the fleet, but those that hold it."""
        found = []
        for process_id in FleetFolder(self.folder / "head" / "fleet").members():
            with suppress(psutil.Error):
                found.append(psutil.Process(process_id))
        return found

    def _titled(self, title: str) -> list[psutil.Process]:
        found = []
        for process in self.members():
            with suppress(psutil.Error):
                words = " ".join(process.cmdline())
                if words.startswith("ray::") and title in words:
                    found.append(process)
        return found

    def replicas(self) -> list[psutil.Process]:
        """Click replicas that have their model."""
        store = open_store(self.database_url, is_guest=True)
        try:
            ready = {
                int(one.owner.split("/")[1])
                for one in present_servers(store)
                if one.report.model == "ready"
            }
        finally:
            store.close()
        return [process for process in self._titled(_CLICK) if process.pid in ready]

    def controller(self) -> list[psutil.Process]:
        """Ray Serve's controller."""
        return self._titled(_CONTROLLER)

    def web_workers(self) -> list[psutil.Process]:
        """The processes that answer on the web ports."""
        masters = [
            process
            for process in self.members()
            if "backend.cli serve" in " ".join(_words_of(process))
            and "backend.cli serve" not in " ".join(_words_of(_parent(process)))
        ]
        return [child for master in masters for child in master.children()]

    def wait(self, is_met: Callable[[], bool], what: str, within_s: float = SOON_S) -> float:
        """Waits for a condition; returns the seconds."""
        began = time.monotonic()
        while not is_met():
            for process in self.started:
                assert process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() - began < within_s, f"{what}: not within {within_s:g} s"
            time.sleep(0.2)
        return time.monotonic() - began

    def is_whole(self) -> bool:
        """Whether replicas, controller and web servers are all there and answer."""
        return (
            len(self.replicas()) == 2
            and len(self.controller()) == 1
            and all(_is_ready(BenchServer(port, self.folder)) for port in self.ports)
        )


def kill(processes: Sequence[psutil.Process]) -> None:
    """Ends processes as a power cut would (SIGKILL)."""
    assert processes
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def running_fleet(folder: Path) -> Iterator[RunningFleet]:
    """Yields a fleet that is ready; ends it afterwards, with all it has left behind."""
    files = folder / "files"
    files.mkdir()
    with ready_database() as url, ExitStack() as stack:
        first = _free_ports(3)
        balancer = stack.enter_context(running_balancer((first, first + 1)))
        mine = {row.variable for row in describe_settings()}
        environment = {name: value for name, value in os.environ.items() if name not in mine}
        environment |= {
            "CALICO_DATABASE_URL": url,
            "CALICO_LOCAL_FILES_ROOT": str(files),
            "CALICO_PREDICT_WORKERS": "8",
            "CALICO_COMMIT_TIMEOUT_MS": "30000",
            "CALICO_LOG_LEVEL": "WARNING",
            # However busy the machine is: a replica that dies is found dead at once.
            "CALICO_FLEET_TRY_S": "80",
            "CALICO_FLEET_TOKEN_FILE": str(folder / "head" / "fleet" / "token"),
        }
        fleet = RunningFleet(
            folder,
            f"127.0.0.1:{first + 2}",
            (first, first + 1),
            BenchServer(balancer.server_port, files),
            url,
            environment,
            folder / "log",
        )
        try:
            web = ("--web", "2", "--port", str(first), "--no-dashboard", "--slots", "2")
            fleet.start("up", *web, *_SIZE, data="head")
            fleet.wait(fleet.is_whole, "the fleet")
            yield fleet
        finally:
            for process in reversed(fleet.started):
                process.send_signal(signal.SIGTERM)
            for process in reversed(fleet.started):
                try:
                    process.wait(120)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            for process in fleet.members():
                with suppress(psutil.NoSuchProcess):
                    process.kill()


def _calico(*words: str) -> list[str]:
    return [sys.executable, "-m", "backend.cli", "fleet", *words]


def _words_of(process: psutil.Process | None) -> list[str]:
    try:
        return [] if process is None else process.cmdline()
    except psutil.Error:
        return []


def _parent(process: psutil.Process) -> psutil.Process | None:
    try:
        return process.parent()
    except psutil.Error:
        return None


def _is_ready(server: BenchServer) -> bool:
    try:
        return server.model_state() == "ready"
    except Exception:  # not there yet
        return False


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_ports(count: int) -> int:
    """Returns the first of so many ports in a row that are free."""
    for first in range(21_000 + os.getpid() % 500 * 10, 32_000, count):
        if not any(map(_is_open, range(first, first + count))):
            return first
    raise AssertionError("no free port")
