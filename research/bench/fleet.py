"""`calico bench fleet`: several servers on one PostgreSQL answer as one, even if one is killed."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from backend.cli.progress import progress_bar
from backend.cli.tables import print_fitted
from calico_model.data.synthetic import Stream, draw_group, group_rng, labeled_group
from calico_model.types import RegionKind, RgbImage
from research.bench.balancer import running_balancer
from research.bench.postgres import find_binaries, running_postgres
from research.bench.prelabel_kills import share_predicted_once
from research.bench.server import BenchError, BenchServer, ServerReply, running_servers
from research.label_studio.sample import clicks_body, predict_body

_JSON = {"Content-Type": "application/json"}
_SIDE, _GROUP, _SEED = 256, 2, 5
_PAIRS = 30


def bench_fleet(
    servers: Annotated[int, typer.Option("--servers", min=2, help="Servers to start.")] = 2,
    tasks: Annotated[int, typer.Option("--tasks", min=1, help="Tasks to open.")] = 6,
    clicks: Annotated[int, typer.Option("--clicks", min=1, help="Clicks on each task.")] = 10,
    clients: Annotated[int, typer.Option("--clients", min=1, help="Clients at once.")] = 4,
    requests: Annotated[
        int, typer.Option("--requests", min=10, help="Requests while a server is killed.")
    ] = 100,
    groups: Annotated[
        int, typer.Option("--groups", min=8, help="Groups of the large job that is killed.")
    ] = 24,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="DIR", help="Model folder.")
    ] = None,
) -> None:
    """Compare the answers of several servers with those of one, and kill a server under load.

    PostgreSQL, the servers and a small balancer run on loopback. Every task is opened once, then
    clicked on: each click of a chain at the next server. Before, one server alone was asked the
    same, with a database of its own. Then one of the servers is killed (SIGKILL) while clients ask
    through the balancer; what it had begun is asked again of another. At last, a large job of
    `calico prelabel` loses a worker and its driver, and is run again.

    Example: calico bench fleet

    The last line is JSON: failed (requests without an answer), worst_ms, overhead_p50_ms (of the
    balancer, paired), equal (share of equal answers), prelabel_once (share of the groups of the
    large job that were predicted into its files exactly once).
    """
    chains = [draw_chain(number, clicks) for number in range(tasks)]
    with ready_database() as url, several_servers(1, url, weights) as (alone,):
        expected = answers([alone], chains)
    with ready_database() as url, several_servers(servers, url, weights) as several:
        found = answers(several, chains)
        equal = sum(a == b for a, b in zip(expected, found, strict=True))
        with running_balancer([server.port for server in several]) as balancer:
            through = BenchServer(balancer.server_port, several[0].files)
            overhead_ms = _overhead_ms(several[0], through, chains[0])
            load = _under_load(through, chains, clients, requests, several[-1].kill)
    once = share_predicted_once(groups, weights)
    table = Table("what", "figure")
    table.add_row("answers equal to those of one server", f"{equal} of {len(expected)}")
    table.add_row("requests without an answer, one server killed", f"{load.failed} of {requests}")
    table.add_row("slowest answer meanwhile", f"{load.worst_ms:.0f} ms")
    table.add_row("balancer adds, p50 of pairs", f"{overhead_ms:.1f} ms")
    table.add_row("groups of a killed large job that are there once", f"{once:.0%} of {groups}")
    print_fitted(table)
    figures = {
        "failed": load.failed,
        "worst_ms": round(load.worst_ms, 1),
        "overhead_p50_ms": round(overhead_ms, 1),
        "equal": equal / len(expected),
        "prelabel_once": once,
    }
    typer.echo(json.dumps(figures))


@dataclass(frozen=True, eq=False)
class Chain:
    """A task and the clicks on it.

    Attributes:
        images: of the group.
        places: of the clicks on the first image, in percent.
        task_id: Label Studio's id.
    """

    images: tuple[RgbImage, ...]
    places: tuple[tuple[float, float], ...]
    task_id: int

    def bodies(self, server: BenchServer) -> Iterator[bytes]:
        """Yields the request that opens the task, then one per click with all clicks before it."""
        urls = server.keep_files(self.images, f"task-{self.task_id}")
        opened = predict_body([urls], first_task_id=self.task_id)
        yield json.dumps(opened).encode()
        for count in range(1, len(self.places) + 1):
            clicked = clicks_body(urls, self.places[:count], side=_SIDE)
            yield json.dumps(clicked | {"tasks": opened["tasks"]}).encode()


def draw_chain(number: int, clicks: int) -> Chain:
    """Draws the images of a task and the places of clicks on its parts; equal for equal numbers."""
    labeled = labeled_group(
        draw_group(group_rng(Stream.EVALUATION, _SEED, number), group_size=_GROUP, size_px=_SIDE)
    )
    rng = np.random.default_rng(number)
    parts = [
        part.mask
        for part in labeled.parts
        if part.image_index == 0 and part.kind is not RegionKind.COMMON_OBJECT
    ]
    spots = [rng.choice(np.argwhere(parts[int(rng.integers(len(parts)))])) for _ in range(clicks)]
    places = tuple((100 * (x + 0.5) / _SIDE, 100 * (y + 0.5) / _SIDE) for y, x in spots)
    return Chain(labeled.group.images, places, number + 1)


def answers(servers: Sequence[BenchServer], chains: Sequence[Chain]) -> list[bytes]:
    """Asks every request of the chains, each of the next server; returns the bodies in order."""
    found = []
    for chain in chains:
        for number, body in enumerate(chain.bodies(servers[0])):
            found.append(_ask(servers[(chain.task_id + number) % len(servers)], body).body)
    return found


def _ask(server: BenchServer, body: bytes) -> ServerReply:
    reply = server.ask("POST", "/predict", body, _JSON)
    if reply.status != 200 or b'"problem"' in reply.body:
        raise BenchError(f"a request was answered {reply.status}: {reply.body[:200]!r}")
    return reply


@contextmanager
def ready_database() -> Iterator[str]:
    """Yields the URL of an empty PostgreSQL, which is stopped afterwards.

    Raises:
        BenchError: none is installed.
    """
    binaries = find_binaries()
    if binaries is None:
        raise BenchError("no PostgreSQL is installed (initdb not found)")
    with tempfile.TemporaryDirectory(prefix="calico-postgres-") as place:
        Path(place).chmod(0o755)  # the user it runs as is another
        with running_postgres(binaries, Path(place) / "server") as own:
            yield own


@contextmanager
def several_servers(
    count: int, database_url: str, weights: Path | None = None
) -> Iterator[tuple[BenchServer, ...]]:
    """Yields servers on one database, each with the model loaded."""
    # However busy the machine: a slow commit is no failure here.
    variables = {"CALICO_DATABASE_URL": database_url, "CALICO_COMMIT_TIMEOUT_MS": "30000"}
    with running_servers(count, weights, **variables) as servers:
        for server in servers:
            server.wait_for_model()
        yield servers


def _overhead_ms(direct: BenchServer, through: BenchServer, chain: Chain) -> float:
    """Median of what the balancer adds to a kept answer, measured in pairs."""
    opened = next(chain.bodies(direct))
    pairs = [(_ask(direct, opened).seconds, _ask(through, opened).seconds) for _ in range(_PAIRS)]
    return float(np.median([1000 * (relayed - own) for own, relayed in pairs]))


@dataclass
class _Load:
    """What clients saw; threads share it."""

    failed: int = 0
    worst_ms: float = 0.0
    begun: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def _under_load(
    server: BenchServer,
    chains: Sequence[Chain],
    clients: int,
    requests: int,
    kill: Callable[[], None],
) -> _Load:
    """Asks from several clients at once; kills a server after a third of the requests."""
    load, bodies = _Load(), [body for chain in chains for body in chain.bodies(server)]
    with progress_bar("Asking", requests) as advance_to:

        def ask_on() -> None:
            while True:
                with load.lock:
                    number = load.begun
                    load.begun += 1
                    advance_to(min(number, requests))
                if number >= requests:
                    return
                if number == requests // 3:
                    kill()
                try:
                    seconds = _ask(server, bodies[number % len(bodies)]).seconds
                except BenchError:
                    with load.lock:
                        load.failed += 1
                    continue
                with load.lock:
                    load.worst_ms = max(load.worst_ms, 1000 * seconds)

        threads = [threading.Thread(target=ask_on) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return load
