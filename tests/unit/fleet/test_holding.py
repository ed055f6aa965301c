"""Whoever holds a fleet goes on when something fails, and ends when it is told to."""

from __future__ import annotations

import signal
import subprocess

import pytest

from backend.fleet import holding
from backend.fleet.holding import HoldingEvents, end_all, hold, start_watch
from backend.fleet.machine import FleetFolder, wait_until


@pytest.fixture
def events(monkeypatch):
    monkeypatch.setattr(holding, "_POLL_S", 0.01)
    monkeypatch.setattr(holding, "_AGAIN_S", 0.01)
    before = {number: signal.getsignal(number) for number in (15, 2, 1)}
    yield HoldingEvents()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_replicas_that_could_not_be_placed_are_placed_again(events):
    placed, said = [], []

    def redeploy():
        placed.append(1)
        if len(placed) < 3:
            raise subprocess.CalledProcessError(2, "deploy")

    def say(sentence):
        said.append(sentence)
        events.stop.set()

    events.redeploy.set()
    hold([], events, redeploy, "the fleet is up", say)
    assert len(placed) == 3
    assert said == ["the fleet is up; Ctrl-C ends it"]


def test_when_the_head_has_died_replicas_are_placed_again_and_web_servers_connect_anew(
    events, monkeypatch
):
    restarted, placed = [], []
    monkeypatch.setattr(holding, "is_ready", lambda _port: True)
    monkeypatch.setattr(
        holding,
        "restart_in_turn",
        lambda servers, stop, _ready: (restarted.extend(servers), stop.set()),
    )
    watch = start_watch(["true"], "server")
    try:
        hold(
            [(9090, watch)],
            events,
            lambda: placed.append(1),
            "up",
            lambda sentence: events.redeploy.set() if sentence.startswith("up") else None,
        )
    finally:
        watch.close()
    assert placed == [1]
    assert restarted == [(9090, watch)]


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGTERM, "stop"), (signal.SIGHUP, "restart_web")]
)
def test_signals_are_heard(events, number, name):
    signal.raise_signal(number)
    assert getattr(events, name).is_set()


def test_the_end_of_a_process_is_told(events):
    watch = start_watch(["false"], "head", on_death=events.redeploy.set)
    try:
        wait_until(events.redeploy.is_set, "the end", events.stop)
    finally:
        watch.close()


def test_in_the_end_nothing_is_left(tmp_path, events):
    folder = FleetFolder(tmp_path / "fleet")
    folder.make_token()
    folder.write_state("127.0.0.1:1")
    watch = start_watch(["sleep", "600"], "head")
    wait_until(lambda: watch.process_id is not None, "start", events.stop)
    end_all([watch], folder)
    assert watch.process_id is None
    assert not folder.state_file.exists()
