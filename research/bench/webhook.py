"""`calico bench webhook`: times the answers to Label Studio's events, each stored on disk."""

from __future__ import annotations

import json
import threading
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from backend.cli.tables import print_fitted
from research.bench.server import JSON_HEADERS, BenchServer, percentile_ms, running_server
from research.label_studio.sample import event_body

_PATIENCE_S = 1.0  # Label Studio gives up then and never sends again


def bench_webhook(
    posters: Annotated[
        int, typer.Option("--posters", min=1, help="Number of posters at once.")
    ] = 32,
    posts: Annotated[
        int, typer.Option("--posts", min=1, help="Number of posts of each poster.")
    ] = 50,
    body_kb: Annotated[int, typer.Option("--body-kb", min=1, help="Size of one body in kB.")] = 95,
) -> None:
    """Time webhook answers under many posters.

    A real gunicorn server runs on loopback. Every post is a new event on a new connection, and is
    answered after its commit is on disk.

    Example: calico bench webhook

    The last line is JSON, times in milliseconds.
    """
    with running_server() as server:
        server.settle()
        measure_webhook(server, posters=2, posts=5, body_kb=body_kb, first_id=10**9)  # warm-up
        seconds, statuses = measure_webhook(server, posters=posters, posts=posts, body_kb=body_kb)
    figures = {
        "p50_ms": percentile_ms(seconds, 50),
        "p99_ms": percentile_ms(seconds, 99),
        "max_ms": percentile_ms(seconds, 100),
        "over_1s": sum(answer_s > _PATIENCE_S for answer_s in seconds),
        "posts": len(seconds),
        "not_201": sum(status != 201 for status in statuses),
    }
    table = Table(title=f"{posters} posters, {body_kb} kB bodies, SQLite, one commit per answer")
    for name in figures:
        table.add_column(name, justify="right")
    table.add_row(*(str(value) for value in figures.values()))
    print_fitted(table)
    typer.echo(json.dumps(figures))


def measure_webhook(
    server: BenchServer, *, posters: int, posts: int, body_kb: int, first_id: int = 1
) -> tuple[list[float], list[int]]:
    """Posts events from many threads at once.

    Returns:
        Seconds and status of every post, in no particular order.
    """
    bodies = [
        _bodies(first_id + poster * posts, posts, body_kb * 1000) for poster in range(posters)
    ]
    seconds: list[float] = []
    statuses: list[int] = []
    start = threading.Barrier(posters)

    def post(own_bodies: list[bytes]) -> None:
        start.wait()
        for body in own_bodies:
            reply = server.ask("POST", "/webhook", body, JSON_HEADERS)
            seconds.append(reply.seconds)
            statuses.append(reply.status)

    threads = [threading.Thread(target=post, args=(own_bodies,)) for own_bodies in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds, statuses


def _bodies(first_id: int, count: int, size: int) -> list[bytes]:
    """Bodies of `count` different events, of about `size` bytes each."""
    rle = np.random.default_rng(first_id).integers(0, 256, size).tolist()
    text = json.dumps(rle, separators=(",", ":"))
    length = text[: size - 2000].count(",")
    return [
        json.dumps(event_body(first_id + number, rle=rle[:length]), separators=(",", ":")).encode()
        for number in range(count)
    ]
