"""`calico bench hostile`: measures answers to good clients while others misbehave, all at once."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from backend.cli.tables import print_fitted
from backend.label_studio import brush
from research.bench.server import (
    JSON_HEADERS,
    BenchError,
    BenchServer,
    percentile_ms,
    repeated,
    running_server,
)
from research.label_studio.sample import (
    PROJECT_ID,
    JsonObject,
    annotation_body,
    click_body,
    clicks_body,
    event_body,
    mask_results,
    name_result,
    predict_body,
)

_SIDE = 256
_TASKS = 32
_PROMPTS, _MOST_PROMPTS = 1000, 100  # above the limit of one request, and the limit itself
_BODY_BYTES = 58_000_000
_BYTE_EVERY_S = 4.0
_PATIENCE_S = 1.0
_PAUSE_S = 0.02
_ATTACK_TIMEOUT_S = 120.0


@dataclass
class _Others:
    """Seconds and wrong answers of the requests of well-behaved clients."""

    health_s: list[float] = field(default_factory=list)
    webhook_s: list[float] = field(default_factory=list)
    predict_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@dataclass
class _Misbehaviour:
    """Counts of the answers to attackers, by attack and status."""

    answers: dict[str, Counter[str]] = field(default_factory=dict)
    slow_connections: int = 0

    def count(self, name: str, answer: str) -> None:
        self.answers.setdefault(name, Counter())[answer] += 1


def bench_hostile(
    seconds: Annotated[
        float, typer.Option("--seconds", min=5.0, help="Least time in seconds in which others ask.")
    ] = 20.0,
    sockets: Annotated[
        int, typer.Option("--sockets", min=0, help="Number of sockets that send slowly.")
    ] = 40,
    pictures: Annotated[
        int, typer.Option("--pictures", min=0, help="Number of pictures asked for at once.")
    ] = 32,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="DIR", help="Model folder.")
    ] = None,
) -> None:
    """Time answers to others while clients misbehave.

    A real gunicorn server runs on loopback. All of these happen at once: sockets send a header
    byte every 4 s, requests ask for pictures of groups with labels of 100,000 characters, one
    click has 1,000 prompts and one has as many as are allowed, and 58 MB of {} arrive as tasks and
    as an event.

    Example: calico bench hostile

    The last line is JSON: times in milliseconds, and the memory of all processes of the server in
    MB.
    """
    with running_server(weights) as server:
        server.wait_for_model()
        urls = server.draw_files(2, size_px=_SIDE)
        _prepare(server, urls)
        others, attacks = _Others(), _Misbehaviour()
        before = _resident_bytes(server)
        sizes = [before]
        sample = partial(_sample_memory, server, sizes)
        with repeated(sample, _PAUSE_S), _slow(server, sockets, attacks):
            _misbehave(server, urls, pictures, attacks, others, seconds)
    _report(others, attacks, max(sizes) - before)


def _prepare(server: BenchServer, urls: tuple[str, ...]) -> None:
    """Submits corrected tasks with long labels and warms up the model, before the measurement."""
    mask = np.zeros((_SIDE, _SIDE), np.bool_)
    mask[60:200, 60:200] = True
    rle = brush.encode_mask(mask)
    for task in range(1, _TASKS + 1):
        results = mask_results("region0001", 0, rle, side=_SIDE)
        name = name_result("region0001", 0, f"{task}" * 100_000, side=_SIDE)
        body = annotation_body(task, [*results, name], urls=urls, task_id=task)
        _need(server, "/webhook", body, 201)
    _need(server, "/predict", predict_body([urls]), 200)
    _need(server, "/predict", click_body(urls, x=40, y=40), 200)
    server.ask("GET", f"/ui/projects/{PROJECT_ID}/groups/1.png")


def _need(server: BenchServer, path: str, body: JsonObject, status: int) -> None:
    reply = server.ask("POST", path, json.dumps(body).encode(), JSON_HEADERS)
    if reply.status != status:
        raise BenchError(f"{path} was answered {reply.status}: {reply.body[:200]!r}")


def _misbehave(
    server: BenchServer,
    urls: tuple[str, ...],
    pictures: int,
    attacks: _Misbehaviour,
    others: _Others,
    seconds: float,
) -> None:
    """Runs all attacks at once, until the last one is answered and the time is over."""
    start = threading.Event()
    tasks = [1 + number % _TASKS for number in range(pictures)]
    requests: list[tuple[str, str, str, bytes | None]] = [
        ("pictures", "GET", f"/ui/projects/{PROJECT_ID}/groups/{task}.png", None) for task in tasks
    ]
    requests += [
        ("click_1000", "POST", "/predict", _clicks(urls, _PROMPTS)),
        ("click_100", "POST", "/predict", _clicks(urls, _MOST_PROMPTS)),
        ("tasks_58mb", "POST", "/predict", _many_objects(b'{"tasks":[')),
        ("event_58mb", "POST", "/webhook", _many_objects(b'{"action":"X","annotations":[')),
    ]

    def attack(name: str, method: str, path: str, body: bytes | None) -> None:
        start.wait()
        try:
            reply = server.ask(method, path, body, JSON_HEADERS, timeout_s=_ATTACK_TIMEOUT_S)
        except BenchError:
            attacks.count(name, "no answer")
        else:
            attacks.count(name, str(reply.status))

    attackers = [threading.Thread(target=attack, args=request) for request in requests]
    for thread in attackers:
        thread.start()
    stop = threading.Event()
    askers = [
        threading.Thread(target=_ask_health, args=(server, others, stop)),
        threading.Thread(target=_post_events, args=(server, others, stop)),
        threading.Thread(target=_predict, args=(server, others, start)),
    ]
    for thread in askers:
        thread.start()
    began = time.monotonic()
    start.set()
    for thread in attackers:
        thread.join()
    stop.wait(max(0.0, began + seconds - time.monotonic()))
    stop.set()
    for thread in askers:
        thread.join()


def _clicks(urls: tuple[str, ...], count: int) -> bytes:
    """Body of POST /predict with `count` clicks all over the first image."""
    places = [(x, y) for x, y in np.random.default_rng(count).uniform(1, 99, (count, 2)).tolist()]
    return json.dumps(clicks_body(urls, places, side=_SIDE)).encode()


def _many_objects(begin: bytes) -> bytes:
    return begin + b"{}," * (_BODY_BYTES // 3) + b"{}]}"


def _ask_health(server: BenchServer, others: _Others, stop: threading.Event) -> None:
    while not stop.wait(_PAUSE_S):
        _ask(server, "GET", "/health", None, 200, others.health_s, others)


def _post_events(server: BenchServer, others: _Others, stop: threading.Event) -> None:
    number = 10_000
    while not stop.wait(_PAUSE_S):
        number += 1
        body = json.dumps(event_body(number, rle=[1] * 20_000)).encode()
        _ask(server, "POST", "/webhook", body, 201, others.webhook_s, others)


def _predict(server: BenchServer, others: _Others, start: threading.Event) -> None:
    """Opens one task at the moment when the attacks begin."""
    images = np.random.default_rng(1).integers(0, 256, (2, _SIDE, _SIDE, 3), np.uint8)
    body = json.dumps(predict_body([server.keep_files(list(images), "others")])).encode()
    start.wait()
    reply = server.ask("POST", "/predict", body, JSON_HEADERS, timeout_s=_ATTACK_TIMEOUT_S)
    others.predict_s.append(reply.seconds)
    if b'"score"' not in reply.body:
        others.wrong.append("/predict: not yet")


def _ask(
    server: BenchServer,
    method: str,
    path: str,
    body: bytes | None,
    status: int,
    seconds: list[float],
    others: _Others,
) -> None:
    began = time.monotonic()
    try:
        answer = str(server.ask(method, path, body, JSON_HEADERS, timeout_s=30.0).status)
    except BenchError:
        answer = "no answer"
    seconds.append(time.monotonic() - began)
    if answer != str(status):
        others.wrong.append(f"{path}: {answer}")


@contextmanager
def _slow(server: BenchServer, count: int, attacks: _Misbehaviour) -> Iterator[None]:
    """Keeps sockets open that send a byte of a header every few seconds; reopens closed ones."""
    stop = threading.Event()

    def trickle() -> None:
        connections: list[socket.socket] = []
        while True:
            for connection in list(connections):
                if not _send(connection):
                    connections.remove(connection)
            while len(connections) < count:
                connections.append(socket.create_connection(("127.0.0.1", server.port)))
                connections[-1].sendall(b"GET /health HTTP/1.1\r\nX-Slow: ")
                attacks.slow_connections += 1
            if stop.wait(_BYTE_EVERY_S):
                break
        for connection in connections:
            connection.close()

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _send(connection: socket.socket) -> bool:
    """Sends one more byte; returns whether the connection is still open."""
    with suppress(OSError):
        connection.setblocking(False)
        with suppress(BlockingIOError):
            if connection.recv(4096):
                connection.close()
                return False
        connection.send(b"x")
        return True
    connection.close()
    return False


def _sample_memory(server: BenchServer, sizes: list[int]) -> None:
    sizes.append(_resident_bytes(server))


def _resident_bytes(server: BenchServer) -> int:
    """Resident memory of the server's processes in bytes; shared pages count once per process."""
    pages, waiting = 0, [server.process_id]
    while waiting:
        process = Path("/proc") / str(waiting.pop())
        with suppress(OSError):
            pages += int((process / "statm").read_text().split()[1])
            for task in (process / "task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
    return pages * 4096


def _report(others: _Others, attacks: _Misbehaviour, grown_bytes: int) -> None:
    health, webhook = others.health_s, others.webhook_s
    figures: dict[str, object] = {
        "health_p50_ms": percentile_ms(health, 50),
        "health_p99_ms": percentile_ms(health, 99),
        "health_max_ms": percentile_ms(health, 100),
        "health_requests": len(health),
        "webhook_p99_ms": percentile_ms(webhook, 99),
        "webhook_max_ms": percentile_ms(webhook, 100),
        "webhooks": len(webhook),
        "webhooks_over_1s": sum(answer_s > _PATIENCE_S for answer_s in webhook),
        "prediction_ms": round(1000 * max(others.predict_s, default=0.0), 1),
        "wrong": len(others.wrong),
        "rss_growth_mb": round(grown_bytes / 1e6, 1),
        "slow_connections": attacks.slow_connections,
        "answers": {name: dict(counts) for name, counts in sorted(attacks.answers.items())},
    }
    table = Table("what", "figure", title="Others, while clients misbehave")
    for name, figure in figures.items():
        table.add_row(name, str(figure))
    print_fitted(table)
    for problem in others.wrong[:10]:
        typer.echo(problem)
    typer.echo(json.dumps(figures))
