"""`calico bench start`: the start of this release and its clicks, beside those of another."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from backend.cli.progress import progress_bar
from backend.cli.tables import print_fitted
from calico_model.errors import InvalidConfigError
from research.bench.ray_load import ask, draw_bodies
from research.bench.server import BenchError, BenchServer, running_server

_HERE = Path(__file__).parents[2]
_PACKAGES = ("backend/__init__.py", "backend/cli/__main__.py", "calico_model/__init__.py")
_WARM = 2  # rounds of clicks that are not timed


def bench_start(
    beside: Annotated[
        Path, typer.Option("--beside", help="Checkout of another release.", metavar="DIR")
    ],
    rounds: Annotated[int, typer.Option(min=1, help="Starts of each.")] = 8,
    clicks: Annotated[int, typer.Option(min=1, help="Times that every click is asked.")] = 8,
) -> None:
    """Start `calico serve` of this release and of another in turn; time both and their clicks.

    The servers of a round start one after the other, then both are asked the same clicks in turn.
    Both run in this environment, without a trainer, with their own shipped weights. The other
    checkout must work with the libraries that are installed here.

    Example: calico bench start --beside ../calico-before

    The last line is JSON: ready_s and click_ms of both (medians), and the medians of the ratios of
    this release to the other, start by start and click by click (ready_ratio, click_ratio).
    """
    missing = [name for name in _PACKAGES if not (beside / name).is_file()]
    if missing:  # Python would take the package of this release instead
        raise InvalidConfigError(
            f"--beside: expected a checkout of this project, got {beside} without {missing[0]}"
        )
    checkouts = (_HERE, beside.absolute())
    ready: tuple[list[float], list[float]] = ([], [])
    clicked: tuple[list[float], list[float]] = ([], [])
    with progress_bar("Starting both", 1 + rounds) as advance_to:
        for number in range(1 + rounds):
            order = (0, 1) if number % 2 else (1, 0)  # neither is always the first
            with ExitStack() as stack:
                servers: dict[int, BenchServer] = {}
                for which in order:
                    began = time.monotonic()
                    try:
                        servers[which] = stack.enter_context(_started(checkouts[which]))
                        servers[which].wait_for_model()
                    except BenchError as error:
                        raise BenchError(f"{checkouts[which]}: {error}") from error
                    if number:  # the first round fills the caches of the disk
                        ready[which].append(time.monotonic() - began)
                if number:
                    _click_in_turn([servers[0], servers[1]], clicks, clicked)
            advance_to(number + 1)
    ready_s, ready_ratio = _compare(*ready)
    click_ms, click_ratio = _compare(*clicked)
    table = Table("", "this release", "the other", "ratio")
    table.add_row("until ready", *(f"{one} s" for one in ready_s), str(ready_ratio))
    table.add_row("a warm click", *(f"{one} ms" for one in click_ms), str(click_ratio))
    print_fitted(table)
    figures = {"ready_s": ready_s, "click_ms": click_ms}
    typer.echo(json.dumps(figures | {"ready_ratio": ready_ratio, "click_ratio": click_ratio}))


def _started(checkout: Path) -> AbstractContextManager[BenchServer]:
    # Without the safe path, Python would import the package of the folder that it is started in.
    return running_server(None, PYTHONPATH=str(checkout), PYTHONSAFEPATH="1")


def _click_in_turn(
    servers: Sequence[BenchServer], clicks: int, times_ms: tuple[list[float], list[float]]
) -> None:
    """Asks the same clicks of both servers, one after the other; adds the milliseconds of each."""
    bodies = [draw_bodies(server, tasks=2, clicks=3) for server in servers]
    for number in range(_WARM + clicks):
        for asked in zip(*bodies, strict=True):
            for server, body, times in zip(servers, asked, times_ms, strict=True):
                began = time.monotonic()
                ask(server, body)
                if number >= _WARM:
                    times.append(1000 * (time.monotonic() - began))


def _compare(own: Sequence[float], other: Sequence[float]) -> tuple[list[float], float]:
    """Returns the medians of both, and the median of the ratios round by round."""
    ratios = [mine / theirs for mine, theirs in zip(own, other, strict=True)]
    return [_median(own), _median(other)], _median(ratios)


def _median(values: Sequence[float]) -> float:
    return round(float(np.median(values)), 3)
