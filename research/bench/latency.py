"""`calico bench latency`: times /health and /setup while the model loads and predicts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from backend.cli.tables import print_fitted
from research.bench.server import JSON_HEADERS, BenchServer, percentile_ms, running_server
from research.label_studio.sample import predict_body, setup_body

_PAUSE_S = 0.02


@dataclass
class _Probe:
    """Seconds of one route's answers, while the model loaded and while it predicted."""

    while_loading: list[float] = field(default_factory=list)
    while_predicting: list[float] = field(default_factory=list)
    wrong: int = 0


def bench_latency(
    seconds: Annotated[
        float, typer.Option("--seconds", min=1.0, help="Seconds of predictions.")
    ] = 20.0,
    askers: Annotated[
        int, typer.Option("--askers", min=1, help="Number of predictions at once.")
    ] = 4,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="DIR", help="Model folder.")
    ] = None,
) -> None:
    """Time /health and /setup while the model works.

    A real gunicorn server runs on loopback. The probes begin when it first answers, so they also
    measure while the weights load. They go on while pairs of new images are predicted without a
    pause.

    Example: calico bench latency

    The last line is JSON, times in milliseconds.
    """
    with running_server(weights) as server:
        began = time.monotonic()
        probes, stop = {"/health": _Probe(), "/setup": _Probe()}, threading.Event()
        is_loaded = threading.Event()
        body = json.dumps(setup_body()).encode()
        threads = [
            _start(_probe, server, "GET", "/health", None, probes["/health"], is_loaded, stop),
            _start(_probe, server, "POST", "/setup", body, probes["/setup"], is_loaded, stop),
        ]
        try:
            server.wait_for_model()
            load_s = time.monotonic() - began
            is_loaded.set()
            done = _predict(server, askers, seconds)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    _report(probes, predictions=done, load_s=load_s)


def _start(function: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    return thread


def _probe(
    server: BenchServer,
    method: str,
    path: str,
    body: bytes | None,
    probe: _Probe,
    is_loaded: threading.Event,
    stop: threading.Event,
) -> None:
    while not stop.wait(_PAUSE_S):
        times = probe.while_predicting if is_loaded.is_set() else probe.while_loading
        reply = server.ask(method, path, body, JSON_HEADERS if body else None)
        times.append(reply.seconds)
        probe.wrong += reply.status != 200


def _predict(server: BenchServer, askers: int, seconds: float) -> int:
    """Requests predictions of new pairs from several threads; returns the number of answers."""
    urls = server.draw_files(24)
    pairs = iter([(a, b) for a in urls for b in urls if a != b])
    lock = threading.Lock()
    answered: list[bool] = []
    deadline = time.monotonic() + seconds

    def ask() -> None:
        while time.monotonic() < deadline:
            with lock:
                pair = next(pairs, None)
            if pair is None:
                return
            body = json.dumps(predict_body([pair], first_task_id=len(answered) + 1)).encode()
            reply = server.ask("POST", "/predict", body, JSON_HEADERS)
            answered.append(reply.status == 200 and b'"problem"' not in reply.body)

    threads = [_start(ask) for _ in range(askers)]
    for thread in threads:
        thread.join()
    return sum(answered)


def _report(probes: dict[str, _Probe], *, predictions: int, load_s: float) -> None:
    table = Table("route", "while", "probes", "p50 ms", "p99 ms", "max ms")
    for path, probe in probes.items():
        for when, times in (
            ("loading", probe.while_loading),
            ("predicting", probe.while_predicting),
        ):
            if times:
                shown = (
                    percentile_ms(times, 50),
                    percentile_ms(times, 99),
                    percentile_ms(times, 100),
                )
                table.add_row(path, when, str(len(times)), *(f"{value:.1f}" for value in shown))
    print_fitted(table)
    times_of = {path: p.while_loading + p.while_predicting for path, p in probes.items()}
    typer.echo(
        json.dumps(
            {
                "health_p99_ms": percentile_ms(times_of["/health"], 99),
                "setup_p99_ms": percentile_ms(times_of["/setup"], 99),
                "max_ms": max(percentile_ms(times, 100) for times in times_of.values()),
                "probes": sum(len(times) for times in times_of.values()),
                "not_200": sum(probe.wrong for probe in probes.values()),
                "predictions": predictions,
                "load_s": round(load_s, 1),
            }
        )
    )
