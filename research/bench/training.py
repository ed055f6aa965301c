"""`calico bench training`: measures how much a training slows the answers to annotators."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from backend.cli.progress import training_bar
from backend.cli.tables import print_fitted
from backend.errors import BackendError
from calico_model.data.opening import DrawnGroups
from calico_model.data.synthetic import SceneSplit
from calico_model.types import LabeledGroup, RegionKind
from research.bench.server import JSON_HEADERS, BenchError, BenchServer, percentile_ms, repeated
from research.bench.webhook import measure_webhook
from research.label_studio.editor import (
    SimulatedProject,
    open_config,
    predict_request,
    setup_request,
)
from research.simulation.site import BaseData, learning_server, open_client

_PROBE_PAUSE_S, _STATUS_PAUSE_S = 0.02, 0.25
_SEED, _WARM_UP = 7003, 6
_CONFIG = open_config(list(RegionKind))
_TAUGHT, _ASKED = SimulatedProject(4, _CONFIG), SimulatedProject(5, _CONFIG)
_STAGES = ("learning", "measuring")


@dataclass
class _Times:
    """Seconds of one route's answers, while nothing trained and while an update trained."""

    idle: list[float] = field(default_factory=list)
    training: list[float] = field(default_factory=list)
    wrong: int = 0


@dataclass
class _TrainingState:
    """State of the trainings at the server.

    Attributes:
        is_training: an update was under way when the status was last asked for.
        is_idle: no update has been requested yet.
        updates_s: seconds of the updates; the first includes the loading of the model.
        problem: why the updates ended, or None.
    """

    is_training: bool = False
    is_idle: bool = True
    updates_s: list[float] = field(default_factory=list)
    problem: str | None = None

    def note(self, times: _Times, seconds: float, *, is_right: bool, was_training: bool) -> None:
        """Counts an answer as idle or as training; answers between two updates do not count."""
        times.wrong += not is_right
        if self.is_idle:
            times.idle.append(seconds)
        elif was_training and self.is_training:
            times.training.append(seconds)


def bench_training(
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds",
            min=1.0,
            help="Seconds to measure without a training, and as many while training.",
        ),
    ] = 60.0,
    pause: Annotated[
        float, typer.Option("--pause", min=0.0, help="Seconds between two predictions.")
    ] = 0.5,
    update_seconds: Annotated[
        float, typer.Option("--update-seconds", min=1.0, help="Budget of one update.")
    ] = 30.0,
    posters: Annotated[
        int, typer.Option("--posters", min=1, help="Number of posters of webhooks at once.")
    ] = 32,
    posts: Annotated[
        int, typer.Option("--posts", min=1, help="Number of posts of each poster.")
    ] = 25,
    body_kb: Annotated[int, typer.Option("--body-kb", min=1, help="Size of one body in kB.")] = 95,
    nice: Annotated[
        int,
        typer.Option(
            "--trainer-nice",
            min=0,
            max=19,
            help="Nice value of the trainer, as CALICO_TRAINER_NICE.",
        ),
    ] = 15,
    cores: Annotated[
        int, typer.Option("--cores", min=1, help="Processor cores for everything together.")
    ] = 2,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="DIR", help="Model folder.")
    ] = None,
) -> None:
    """Time predictions, probes and webhooks while updates train on the same cores.

    A real server with its trainer runs on loopback. An annotator opens a group that nobody has
    seen, waits for the prediction, pauses, and opens the next one: first while nothing trains,
    then while one update after another trains. /health and /setup are asked all the time. At the
    end many posters send webhooks while an update trains.

    Example: calico bench training

    The last line is JSON, times in milliseconds. p95_ratio compares this machine with itself.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    groups = round(3 * seconds / max(pause, 0.05)) + _WARM_UP
    reader_groups = DrawnGroups(SceneSplit.SEEN, groups, _SEED, (2, 2))
    pupil_groups = DrawnGroups(SceneSplit.UNSEEN_DOMAIN, 40, _SEED, (2, 2))
    times = {name: _Times() for name in ("/predict", "/health", "/setup")}
    state = _TrainingState()
    with (
        training_bar("Drawing groups") as show,
        learning_server(
            weights, "cpu", update_seconds, BaseData(None, 36, _SEED), nice=nice
        ) as server,
    ):
        reader, teach = _prepare(server, reader_groups, pupil_groups, state, show)
        setup = json.dumps(setup_request(_ASKED)).encode()
        with (
            repeated(lambda: _probe(server, "GET", "/health", None, times, state), _PROBE_PAUSE_S),
            repeated(lambda: _probe(server, "POST", "/setup", setup, times, state), _PROBE_PAUSE_S),
        ):
            show("nothing trains", 0, 1)
            _predict(server, reader, seconds, pause, times["/predict"], state)
            state.is_idle = False
            with (
                repeated(lambda: _update_state(server, state), _STATUS_PAUSE_S),
                repeated(teach, _PROBE_PAUSE_S),
            ):
                show("training", 0, 1)
                _predict(server, reader, seconds, pause, times["/predict"], state)
                show("webhooks while training", 0, 1)
                _wait_for_training(state)
                webhook = measure_webhook(server, posters=posters, posts=posts, body_kb=body_kb)
                is_whole = state.is_training
    _report(times, webhook, state, is_whole=is_whole)


def _prepare(
    server: BenchServer,
    reader_groups: DrawnGroups,
    pupil_groups: DrawnGroups,
    state: _TrainingState,
    show: Callable[[str, int, int], None],
) -> tuple[Iterator[bytes], Callable[[], None]]:
    """Imports all groups and warms up trainer and model.

    Returns:
        Bodies of /predict, each of a new group, and a function that makes one more update.
    """
    # torch takes seconds to import: `--help` and a wrong argument must not wait for it.
    from research.simulation.live_loop import LiveLoop

    client = open_client(server.url)
    pupil = LiveLoop(client, server.files, _TAUGHT)
    reader = LiveLoop(client, server.files, _ASKED)
    pupil.import_tasks(pupil_groups, on_task=lambda n: show("drawing groups", n, len(pupil_groups)))
    reader.import_tasks(
        reader_groups, on_task=lambda n: show("drawing groups", n, len(reader_groups))
    )
    bodies = iter(
        [json.dumps(predict_request(_ASKED, task.id, task.urls)).encode() for task in reader.tasks]
    )
    remaining: Iterator[LabeledGroup] = iter(pupil_groups)

    def teach() -> None:
        labeled = next(remaining, None)
        if labeled is None:
            raise BenchError("there are no more groups to learn from; take fewer --seconds")
        pupil.correct(labeled, pupil.predict(labeled.group))
        state.updates_s.append(pupil.learn())

    def teach_unless_broken() -> None:
        try:
            if state.problem is None:
                teach()
        except BackendError as error:
            state.problem = str(error)

    show("the first update", 0, 1)
    teach()
    for _ in range(_WARM_UP):
        server.ask("POST", "/predict", next(bodies), JSON_HEADERS)
    return bodies, teach_unless_broken


def _probe(
    server: BenchServer,
    method: str,
    path: str,
    body: bytes | None,
    times: dict[str, _Times],
    state: _TrainingState,
) -> None:
    was_training = state.is_training
    reply = server.ask(method, path, body, JSON_HEADERS if body else None)
    is_right = reply.status == 200
    state.note(times[path], reply.seconds, is_right=is_right, was_training=was_training)


def _update_state(server: BenchServer, state: _TrainingState) -> None:
    status: dict[str, Any] = json.loads(server.ask("GET", f"/status/{_TAUGHT.id}").body)
    run = status["projects"][0]["run"]
    state.is_training = run["state"] == "running" and run["stage"] in _STAGES


def _predict(
    server: BenchServer,
    bodies: Iterator[bytes],
    seconds: float,
    pause_s: float,
    times: _Times,
    state: _TrainingState,
) -> None:
    """An annotator opens one group after another, for `seconds` of counted answers."""
    counted = times.idle if state.is_idle else times.training
    spent_s, patience = 0.0, time.monotonic() + 20 * seconds
    while spent_s < seconds and time.monotonic() < patience and state.problem is None:
        body = next(bodies, None)
        if body is None:
            return
        before, was_training = len(counted), state.is_training
        began = time.monotonic()
        reply = server.ask("POST", "/predict", body, JSON_HEADERS)
        is_right = reply.status == 200 and b'"result"' in reply.body
        state.note(times, reply.seconds, is_right=is_right, was_training=was_training)
        time.sleep(pause_s)
        spent_s += (len(counted) - before) * (time.monotonic() - began)


def _wait_for_training(state: _TrainingState) -> None:
    while not state.is_training and state.problem is None:
        time.sleep(_STATUS_PAUSE_S)
    if state.problem is not None:
        raise BenchError(state.problem)


def _report(
    times: dict[str, _Times],
    webhook: tuple[list[float], list[int]],
    state: _TrainingState,
    *,
    is_whole: bool,
) -> None:
    posted, statuses = webhook
    table = Table("route", "while", "answers", "p50 ms", "p95 ms", "p99 ms", "max ms")
    rows = [(p, w, getattr(t, w)) for p, t in times.items() for w in ("idle", "training")]
    for path, when, seconds in (*rows, ("/webhook", "training", posted)):
        figures = (f"{percentile_ms(seconds, percent):.1f}" for percent in (50, 95, 99, 100))
        table.add_row(path, when, str(len(seconds)), *figures)
    print_fitted(table)
    idle, busy = times["/predict"].idle, times["/predict"].training
    typer.echo(
        json.dumps(
            {
                "idle_p50_ms": percentile_ms(idle, 50),
                "idle_p95_ms": percentile_ms(idle, 95),
                "training_p50_ms": percentile_ms(busy, 50),
                "training_p95_ms": percentile_ms(busy, 95),
                "p95_ratio": round(percentile_ms(busy, 95) / percentile_ms(idle, 95), 3),
                "predictions": [len(idle), len(busy)],
                "health_p99_ms": percentile_ms(times["/health"].training, 99),
                "health_max_ms": percentile_ms(times["/health"].training, 100),
                "setup_p99_ms": percentile_ms(times["/setup"].training, 99),
                "setup_max_ms": percentile_ms(times["/setup"].training, 100),
                "webhook_p99_ms": percentile_ms(posted, 99),
                "webhook_max_ms": percentile_ms(posted, 100),
                "webhook_over_1s": sum(answer_s > 1.0 for answer_s in posted),
                "webhook_not_201": sum(status != 201 for status in statuses),
                "webhook_all_while_training": is_whole,
                "wrong": sum(route.wrong for route in times.values()),
                "updates_s": [round(update_s, 1) for update_s in state.updates_s if update_s],
            }
        )
    )
