"""`calico bench start`: the start of this release and its clicks, beside those of another."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from backend.cli.progress import progress_bar
from backend.cli.tables import print_fitted
from calico_model.errors import InvalidConfigError
from research.bench.ray_load import ask, draw_bodies
from research.bench.server import BenchServer, running_server

_HERE = Path(__file__).parents[2]
_WARM = 2  # rounds of clicks that are not timed


@dataclass(frozen=True)
class Start:
    """One start of a server.

    Attributes:
        ready_s: seconds from the command until the model can be asked.
        click_ms: median time of a warm click.
    """

    ready_s: float
    click_ms: float


def bench_start(
    beside: Annotated[
        Path, typer.Option("--beside", help="Checkout of another release.", metavar="DIR")
    ],
    rounds: Annotated[int, typer.Option(min=1, help="Starts of each.")] = 8,
    clicks: Annotated[int, typer.Option(min=1, help="Times that every click is asked.")] = 8,
) -> None:
    """Start `calico serve` of this release and of another in turn; time both and their clicks.

    Both run in this environment, without a trainer, with their own shipped weights. The other
    checkout must work with the libraries that are installed here.

    Example: calico bench start --beside ../calico-before

    The last line is JSON: ready_s and click_ms of both (medians), and the medians of the ratios of
    this release to the other, round by round (ready_ratio, click_ratio).
    """
    if not (beside / "backend" / "cli").is_dir():
        raise InvalidConfigError(f"--beside: expected a checkout of this project, got {beside}")
    found: dict[Path, list[Start]] = {_HERE: [], beside.absolute(): []}
    with progress_bar("Starting servers", 2 * (1 + rounds)) as advance_to:
        for number in range(1 + rounds):
            for place, (checkout, starts) in enumerate(found.items()):
                start = _start(checkout, clicks)
                if number:  # the first round fills the caches of the disk
                    starts.append(start)
                advance_to(2 * number + place + 1)
    own, other = found.values()
    ready_s, ready_ratio = _compare([one.ready_s for one in own], [one.ready_s for one in other])
    click_ms, click_ratio = _compare([one.click_ms for one in own], [one.click_ms for one in other])
    table = Table("", "this release", "the other", "ratio")
    table.add_row("until ready", *(f"{one} s" for one in ready_s), str(ready_ratio))
    table.add_row("a warm click", *(f"{one} ms" for one in click_ms), str(click_ratio))
    print_fitted(table)
    figures = {"ready_s": ready_s, "click_ms": click_ms}
    typer.echo(json.dumps(figures | {"ready_ratio": ready_ratio, "click_ratio": click_ratio}))


def _start(checkout: Path, clicks: int) -> Start:
    """Starts the server of a checkout, and ends it.

    Raises:
        BenchError: it does not start or does not answer.
    """
    began = time.monotonic()
    # Without the safe path, Python would import the package of the folder that it is started in.
    with running_server(None, PYTHONPATH=str(checkout), PYTHONSAFEPATH="1") as server:
        server.wait_for_model()
        ready_s = time.monotonic() - began
        bodies = draw_bodies(server, tasks=2, clicks=3)
        times_s = [_asked_s(server, bodies) for _ in range(_WARM + clicks)][_WARM:]
    return Start(ready_s, 1000 * float(np.median(times_s)))


def _asked_s(server: BenchServer, bodies: Sequence[bytes]) -> float:
    """Asks all once; returns the mean seconds of an answer."""
    began = time.monotonic()
    for body in bodies:
        ask(server, body)
    return (time.monotonic() - began) / len(bodies)


def _compare(own: Sequence[float], other: Sequence[float]) -> tuple[list[float], float]:
    """Returns the medians of both, and the median of the ratios round by round."""
    ratios = [mine / theirs for mine, theirs in zip(own, other, strict=True)]
    return [_median(own), _median(other)], _median(ratios)


def _median(values: Sequence[float]) -> float:
    return round(float(np.median(values)), 3)
