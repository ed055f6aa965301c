"""`calico bench fleet`: several servers on one PostgreSQL answer as one, even if one is killed."""

from __future__ import annotations

import json
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
from research.bench.balancer import running_balancer
from research.bench.chains import Chain, draw_chain, ready_database
from research.bench.prelabel_kills import measure_killed_job
from research.bench.ray_kills import Victim, measure_kills, show_kills
from research.bench.server import (
    BenchError,
    BenchServer,
    running_servers,
)

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
    kills: Annotated[
        int, typer.Option("--kills", min=0, help="Instead: kills of each part of a fleet on Ray.")
    ] = 0,
    what: Annotated[
        list[Victim] | None, typer.Option("--what", help="Part to kill; may be repeated. [all]")
    ] = None,
) -> None:
    """Compare the answers of several servers with those of one, and kill a server under load.

    PostgreSQL, the servers and a small balancer run on loopback. Every task is opened once, then
    clicked on: each click of a chain at the next server. Before, one server alone was asked the
    same, with a database of its own. Then one of the servers is killed (SIGKILL) while clients ask
    through the balancer; a request that it had begun is sent again to another. At last, a large job
    of `calico prelabel` loses a worker and its driver, and is run again.

    With --kills, a fleet on Ray (calico-labeling[fleet]) takes the place of the servers: two web
    servers and two click replicas, and two more machines on addresses of loopback where machines
    are killed. Every answer under load is compared with that of one server.

    Example: calico bench fleet

    Example: calico bench fleet --kills 20 --what replica --what node --clients 8 --requests 400

    The last line is JSON: failed (requests without an answer), worst_ms, overhead_p50_ms (of the
    balancer, paired), equal (share of equal answers), prelabel_once (share of the groups of the
    large job that were predicted into its files exactly once). With --kills, overhead_p50_ms is
    that of the whole fleet for a warm click, click_p95_ms that of one through HAProxy as well (null
    without HAProxy), and each kind of part has its requests (asked), kills,
    and the seconds after each until the fleet was whole (back_s).
    """
    if kills:
        compared, seen = measure_kills(what or tuple(Victim), kills, clients, requests, weights)
        figures = show_kills(compared, seen)
        job = measure_killed_job(groups, kills=1, weights=weights)
        typer.echo(json.dumps(figures | {"prelabel_once": job.once / groups}))
        return
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
    job = measure_killed_job(groups, kills=1, weights=weights)
    table = Table("what", "figure")
    table.add_row("answers equal to those of one server", f"{equal} of {len(expected)}")
    table.add_row("requests without an answer, one server killed", f"{load.failed} of {requests}")
    table.add_row("slowest answer meanwhile", f"{load.worst_ms:.0f} ms")
    table.add_row("balancer adds, p50 of pairs", f"{overhead_ms:.1f} ms")
    table.add_row("groups of a killed large job that are there once", f"{job.once} of {groups}")
    print_fitted(table)
    shown = {
        "failed": load.failed,
        "worst_ms": round(load.worst_ms, 1),
        "overhead_p50_ms": round(overhead_ms, 1),
        "equal": equal / len(expected),
        "prelabel_once": job.once / groups,
    }
    typer.echo(json.dumps(shown))


def answers(servers: Sequence[BenchServer], chains: Sequence[Chain]) -> list[bytes]:
    """Asks every request of the chains, each of the next server; returns the bodies in order."""
    found = []
    for chain in chains:
        for number, body in enumerate(chain.bodies(servers[0])):
            found.append(servers[(chain.task_id + number) % len(servers)].predict(body).body)
    return found


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
    pairs = [
        (direct.predict(opened).seconds, through.predict(opened).seconds) for _ in range(_PAIRS)
    ]
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
                    seconds = server.predict(bodies[number % len(bodies)]).seconds
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
