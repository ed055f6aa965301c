"""What killed parts of a fleet on Ray cost its clients, and what the fleet adds to a click."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import typer
from rich.table import Table

from backend.cli.progress import progress_bar
from backend.cli.tables import print_fitted
from research.bench.balancer import HAPROXY, running_haproxy
from research.bench.chains import ready_database
from research.bench.ray_fleet import RunningFleet, cut_power, kill, running_fleet
from research.bench.ray_load import ask, draw_bodies, under_load
from research.bench.server import BenchServer, running_server

TASKS, CLICKS = 4, 3
_PAIRS, _SHOWN = 200, 5


class Victim(StrEnum):
    """What is killed."""

    REPLICA = "replica"
    WEB = "web"
    NODE = "node"
    CONTROLLER = "controller"


@dataclass(frozen=True)
class KillFigures:
    """What clients saw while one kind of part was killed again and again.

    Attributes:
        victim: what was killed.
        asked: requests.
        failures: one line for each request without a right answer.
        worst_s: slowest answer.
        back_s: seconds from each kill until the fleet was whole again.
    """

    victim: Victim
    asked: int
    failures: tuple[str, ...]
    worst_s: float
    back_s: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """The answers of a fleet beside those of one server.

    Attributes:
        expected: right bodies of each request, by version.
        equal: share of equal answers to all requests and warm clicks.
        direct_ms: median time of a warm click at the one server.
        added_ms: median of what the fleet's web server takes longer, in pairs.
        p95_ms: 95th percentile of a warm click through HAProxy and the fleet, None without HAProxy.
    """

    expected: list[dict[str, bytes]]
    equal: float
    direct_ms: float
    added_ms: float
    p95_ms: float | None


def measure_kills(
    victims: Sequence[Victim], kills: int, clients: int, requests: int, weights: Path | None
) -> tuple[Comparison, list[KillFigures]]:
    """Starts a fleet, compares it with one server, and kills its parts (SIGKILL) under load.

    Raises:
        BenchError: the fleet does not start, or is not whole again within minutes.
    """
    mine: dict[str, str] = {}
    if weights is not None:
        mine["CALICO_WEIGHTS"] = str(weights.absolute())
    with (
        tempfile.TemporaryDirectory(prefix="calico-fleet-") as place,
        running_fleet(Path(place), mine, has_nodes=Victim.NODE in victims) as fleet,
    ):
        bodies = draw_bodies(fleet.balancer, TASKS, CLICKS)
        compared = compare_with_one(fleet, bodies, _PAIRS, weights)
        figures = []
        for victim in victims:
            with progress_bar(f"Killing: {victim}", kills) as advance_to:
                seen = kill_under_load(
                    fleet,
                    bodies,
                    compared.expected,
                    victim,
                    kills=kills,
                    clients=clients,
                    requests=requests,
                    advance_to=advance_to,
                )
            figures.append(seen)
    return compared, figures


def show_kills(compared: Comparison, figures: Sequence[KillFigures]) -> dict[str, object]:
    """Prints a table; returns failed, worst_ms, overhead_p50_ms, equal, and what is per victim."""
    table = Table(*("killed", "times", "requests", "without a right answer"))
    table.add_column("slowest")
    table.add_column("whole again after, median and longest")
    for one in figures:
        back_s = f"{np.median(one.back_s):.1f} s, {max(one.back_s):.1f} s"
        counts = (len(one.back_s), one.asked, len(one.failures))
        table.add_row(one.victim, *map(str, counts), f"{one.worst_s:.1f} s", back_s)
    print_fitted(table)
    for one in figures:
        for line in one.failures[:_SHOWN]:
            typer.secho(f"{one.victim}: {line}", fg=typer.colors.YELLOW, err=True)
    typer.echo(
        f"a warm click takes {compared.direct_ms:.1f} ms at one server, through the fleet "
        f"{compared.added_ms:+.1f} ms (p50 of {_PAIRS} pairs); {compared.equal:.0%} equal answers"
    )
    if compared.p95_ms is not None:
        typer.echo(f"95 % of warm clicks take at most {compared.p95_ms:.1f} ms through HAProxy")
    return {
        "failed": sum(len(one.failures) for one in figures),
        "worst_ms": round(1000 * max(one.worst_s for one in figures), 1),
        "overhead_p50_ms": round(compared.added_ms, 1),
        "click_p95_ms": None if compared.p95_ms is None else round(compared.p95_ms, 1),
        "equal": compared.equal,
        "asked": {str(one.victim): one.asked for one in figures},
        "kills": {str(one.victim): len(one.back_s) for one in figures},
        "back_s": {str(one.victim): [round(each, 1) for each in one.back_s] for one in figures},
    }


def kill_under_load(
    fleet: RunningFleet,
    bodies: Sequence[bytes],
    expected: Sequence[dict[str, bytes]],
    victim: Victim,
    *,
    kills: int,
    clients: int,
    requests: int = 0,
    advance_to: Callable[[int], None] = lambda _done: None,
) -> KillFigures:
    """Kills one kind of part while clients ask; the next one when the fleet is whole again.

    Args:
        fleet: whole.
        bodies: requests.
        expected: right bodies of each request, by version.
        victim: what to kill.
        kills: how often.
        clients: threads that ask.
        requests: at least so many.
        advance_to: called with the number of kills that are done.

    Raises:
        BenchError: the fleet is not whole again within minutes.
    """
    back_s = []
    with under_load(fleet.balancer, bodies, expected, clients) as load:
        for number in range(kills):
            asked = load.asked
            fleet.wait(lambda asked=asked: load.asked >= asked + 2 * clients, "requests")  # type: ignore[misc]
            back_s.append(_kill_one(fleet, victim))
            advance_to(number + 1)
        fleet.wait(lambda: load.asked >= requests, "requests")
    return KillFigures(victim, load.asked, tuple(load.failures), load.worst_s, tuple(back_s))


def _kill_one(fleet: RunningFleet, victim: Victim) -> float:
    """Kills a part; returns the seconds until the fleet was whole."""
    fleet.wait(fleet.is_whole, "the whole fleet")
    node = fleet.node() if victim is Victim.NODE else ""
    began = time.monotonic()
    if victim is Victim.NODE:
        cut_power(fleet, node)
    elif victim is Victim.REPLICA:
        kill(fleet.replicas()[:1])
    elif victim is Victim.WEB:
        kill(fleet.web_workers()[:1])
    else:
        kill(fleet.controller())
    fleet.wait(fleet.is_whole, f"the {victim} is back")
    whole_s = time.monotonic() - began
    if node:  # else the next machine dies while this one is away
        fleet.wait(lambda: fleet.is_joined(node), "the machine")
    return whole_s


def compare_with_one(
    fleet: RunningFleet, bodies: Sequence[bytes], pairs: int, weights: Path | None = None
) -> Comparison:
    """Asks one server and the fleet the same; warm clicks of both in turn, in pairs.

    Args:
        fleet: whole.
        bodies: requests.
        pairs: of warm clicks.
        weights: model folder of the fleet; None is the shipped one.

    Raises:
        BenchError: one of them does not answer.
    """
    with (
        ready_database() as url,
        running_server(
            weights,
            CALICO_DATABASE_URL=url,
            CALICO_COMMIT_TIMEOUT_MS="30000",
            CALICO_LOCAL_FILES_ROOT=str(fleet.balancer.files),
        ) as alone,
    ):
        alone.wait_for_model()
        expected = [dict([ask(alone, body)]) for body in bodies]
        found = [dict([ask(fleet.web, body)]) for body in bodies]
        equal = sum(own == other for own, other in zip(expected, found, strict=True))
        clicks = [body for number, body in enumerate(bodies) if number % (CLICKS + 1) == 1]
        direct_s, added_s = [], []
        for number in range(pairs):
            body = clicks[number % len(clicks)]
            (own, own_s), (through, through_s) = (_timed(one, body) for one in (alone, fleet.web))
            direct_s.append(own_s)
            added_s.append(through_s - own_s)
            equal += own == through
    return Comparison(
        expected,
        equal / (len(bodies) + pairs),
        1000 * float(np.median(direct_s)),
        1000 * float(np.median(added_s)),
        _p95_ms(fleet, clicks, pairs) if HAPROXY else None,
    )


def _p95_ms(fleet: RunningFleet, clicks: Sequence[bytes], count: int) -> float:
    """Times warm clicks through HAProxy, a web server and a replica."""
    with running_haproxy(fleet.ports) as port:
        through = BenchServer(port, fleet.web.files)
        for body in clicks:  # the server that HAProxy chose for its task opens it
            ask(through, body)
        times_s = [_timed(through, clicks[number % len(clicks)])[1] for number in range(count)]
    return 1000 * float(np.percentile(times_s, 95))


def _timed(server: BenchServer, body: bytes) -> tuple[tuple[str, bytes], float]:
    began = time.monotonic()
    answer = ask(server, body)
    return answer, time.monotonic() - began
