"""`calico fleet` in processes of its own, on loopback, with a PostgreSQL and images of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from backend.errors import StoreError
from backend.fleet.machine import FleetFolder, is_listening
from backend.settings import describe_settings
from backend.storage.servers import present_servers
from backend.storage.store import open_store
from research.bench.balancer import running_balancer
from research.bench.chains import ready_database
from research.bench.server import BenchError, BenchServer, exit_on_termination

SOON_S = 400.0
_HEAD, _NODES = "127.0.0.2", ("127.0.0.3", "127.0.0.4")
# Ray takes 127.0.0.1 for the whole machine; other loopback addresses are machines of their own.
_CLICK, _BATCH = "ServeReplica:click", "ServeReplica:batch"
_CONTROLLER = "ServeController"
_TRAINER = "TrainerActor"
_ANSWERING = "AnsweringActor"
_SIZE = ("--click", "2", "--most-batch", "1", "--cpus", "0.6")


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
        log: of all its processes.
        holders: processes that hold the parts of the fleet, by data folder: "head", or a node's.
    """

    folder: Path
    address: str
    ports: tuple[int, int]
    balancer: BenchServer
    database_url: str
    environment: dict[str, str]
    log: Path
    holders: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

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

    def start(self, *words: str, data: str) -> None:
        """Starts `calico fleet WORDS`, which runs until the fleet ends."""
        token = self._place(data).token_file
        with self.log.open("ab") as log:
            self.holders[data] = subprocess.Popen(
                [*_calico(*words), *self._places(data)],
                env=self.environment | {"CALICO_FLEET_TOKEN_FILE": str(token)},
                stdout=log,
                stderr=log,
            )

    def join(self, node_address: str) -> None:
        """Starts a machine of the fleet at another loopback address, with room for one replica."""
        place = self._place(node_address)
        place.path.mkdir(parents=True, exist_ok=True)
        shutil.copy(self._place("head").token_file, place.token_file)
        words = ("join", "--node-address", node_address, "--slots", "1")
        self.start(*words, data=node_address)

    def members(self, data: str | None = None) -> list[psutil.Process]:
        """Processes of the fleet, of one machine or of all; not those that hold it."""
        found = []
        for one in self.holders if data is None else (data,):
            for process_id in self._place(one).members():
                with suppress(psutil.Error):
                    found.append(psutil.Process(process_id))
        return found

    def replicas(self) -> list[psutil.Process]:
        """Click replicas that have their model; none if the database does not answer in time."""
        return self._ready(_CLICK)

    def batch_replicas(self) -> list[psutil.Process]:
        """Batch replicas that have their model; none if the database does not answer in time."""
        return self._ready(_BATCH)

    def _ready(self, title: str) -> list[psutil.Process]:
        try:
            with closing(open_store(self.database_url, is_guest=True)) as store:
                ready = {
                    int(one.owner.split("/")[1])
                    for one in present_servers(store)
                    if one.report.model == "ready"
                }
        except StoreError:
            return []
        return [process for process in self._titled(title) if process.pid in ready]

    def controller(self) -> list[psutil.Process]:
        """Ray Serve's controller."""
        return self._titled(_CONTROLLER)

    def trainers(self) -> list[psutil.Process]:
        """The actors that keep the trainers alive."""
        return self._titled(_TRAINER)

    def answering(self) -> list[psutil.Process]:
        """The actors of a large job."""
        return self._titled(_ANSWERING)

    def node(self) -> str:
        """Address of a machine beside the head on which a replica is."""
        homes = {process.pid for process in self.replicas()}
        for node in self.nodes():
            if homes & {process.pid for process in self.members(node)}:
                return node
        raise BenchError("no machine but the head has a replica")

    def nodes(self) -> list[str]:
        """Addresses of the machines beside the head."""
        return [name for name in self.holders if name != "head"]

    def is_joined(self, node: str) -> bool:
        """Whether a machine's node of Ray runs."""
        return any("raylet/raylet" in " ".join(_words_of(one)) for one in self.members(node))

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
        """Waits for a condition; returns the seconds.

        Raises:
            BenchError: it was not met, or the fleet ended.
        """
        began = time.monotonic()
        while not is_met():
            if any(process.poll() is not None for process in self.holders.values()):
                raise BenchError(f"the fleet ended: {self.log.read_text()[-3000:]}")
            if time.monotonic() - began > within_s:
                raise BenchError(f"{what}: not within {within_s:g} s")
            time.sleep(0.2)
        return time.monotonic() - began

    def is_whole(self) -> bool:
        """Whether replicas, controller and web servers are all there and answer."""
        return (
            len(self.replicas()) == 2
            and len(self.controller()) == 1
            and all(_is_ready(BenchServer(port, self.folder)) for port in self.ports)
        )

    def end(self) -> None:
        """Ends all processes."""
        for process in reversed(self.holders.values()):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self.holders.values()):
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for process in self.members():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _places(self, data: str) -> list[str]:
        return ["--data-dir", str(self.folder / data), "--address", self.address]

    def _place(self, data: str) -> FleetFolder:
        return FleetFolder(self.folder / data / "fleet")

    def _titled(self, title: str) -> list[psutil.Process]:
        found = []
        for process in self.members():
            words = " ".join(_words_of(process))
            if words.startswith("ray::") and title in words:
                found.append(process)
        return found


def kill(processes: Sequence[psutil.Process]) -> None:
    """Ends processes as a power cut would (SIGKILL).

    Raises:
        BenchError: there are none.
    """
    if not processes:
        raise BenchError("there is no process to kill")
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def cut_power(fleet: RunningFleet, node: str) -> None:
    """Ends all processes of a machine at once, and starts the machine again."""
    holder = fleet.holders.pop(node)
    holder.kill()
    holder.wait()
    while left := fleet.members(node):  # what was being started, too
        kill(left)
    fleet.join(node)


@contextmanager
def running_fleet(
    folder: Path,
    variables: Mapping[str, str] | None = None,
    *,
    has_nodes: bool = False,
    trainers: int = 0,
) -> Iterator[RunningFleet]:
    """Yields a fleet that is ready; ends it afterwards, with all it has left behind.

    Args:
        folder: an empty one.
        variables: environment variables to add.
        has_nodes: two machines beside the head; each of the three has room for one replica.
        trainers: how many.

    Raises:
        BenchError: it does not start.
    """
    files = folder / "files"
    files.mkdir()
    with ready_database() as url, ExitStack() as stack:
        first = _free_ports(3)
        balancer = stack.enter_context(running_balancer((first, first + 1)))
        mine = {row.variable for row in describe_settings()}
        # Without compiled modules every new process would compile all that it imports.
        mine.add("PYTHONDONTWRITEBYTECODE")
        environment = {name: value for name, value in os.environ.items() if name not in mine}
        environment |= {
            "CALICO_DATABASE_URL": url,
            "CALICO_LOCAL_FILES_ROOT": str(files),
            "CALICO_PREDICT_WORKERS": "8",
            "CALICO_COMMIT_TIMEOUT_MS": "30000",
            "CALICO_LOG_LEVEL": "WARNING",
            # However busy the machine is: a replica that dies is found dead at once.
            "CALICO_FLEET_TRY_S": "80",
            **(variables or {}),
        }
        fleet = RunningFleet(
            folder,
            f"{_HEAD}:{first + 2}",
            (first, first + 1),
            BenchServer(balancer.server_port, files),
            url,
            environment,
            folder / "log",
        )
        previous = exit_on_termination()
        if previous is not None:
            stack.callback(signal.signal, signal.SIGTERM, previous)
        stack.callback(fleet.end)
        slots = "1" if has_nodes else str(2 + trainers)
        web = ("--web", "2", "--port", str(first), "--no-dashboard", "--slots", slots)
        fleet.start("up", *web, *_SIZE, "--trainers", str(trainers), data="head")
        if has_nodes:
            fleet.wait((folder / "head" / "fleet" / "token").exists, "the token")
            for node in _NODES:
                fleet.join(node)
        fleet.wait(fleet.is_whole, "the fleet")
        yield fleet


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
    return any(is_listening(host, port) for host in ("127.0.0.1", _HEAD))


def _free_ports(count: int) -> int:
    """Returns the first of so many ports in a row that are free."""
    for first in range(21_000 + os.getpid() % 500 * 10, 32_000, count):
        if not any(map(_is_open, range(first, first + count))):
            return first
    raise BenchError("no free port")
