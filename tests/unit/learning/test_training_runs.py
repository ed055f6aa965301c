"""Runs: one per project, and a dead trainer's run is free at once or when its lease ends."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from backend.errors import LeaseLostError
from backend.learning.schedule import Cause, RunState
from backend.learning.training_runs import RunRepository
from backend.process_identity import owner_name
from backend.storage.store import open_store
from tests.unit.learning.databases import database_url, postgres_server  # noqa: F401


@pytest.fixture
def store(database_url):  # noqa: F811
    opened = open_store(database_url, commit_timeout_s=30)
    yield opened
    opened.close()


def test_of_many_trainers_one_gets_the_project(store):
    trainers = [RunRepository(store, owner=f"machine/{n}") for n in range(16)]
    claimed = []
    threads = [
        threading.Thread(target=lambda t=t: claimed.append(t.claim(7, Cause.COUNT)))
        for t in trainers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(run_id is not None for run_id in claimed) == 1
    assert trainers[0].claim(8, Cause.COUNT) is not None


def test_a_run_reports_and_ends(store):
    runs = RunRepository(store)
    run_id = runs.claim(7, Cause.BUTTON)
    runs.report(run_id, stage="learning", progress=0.25, eta_s=12.0)
    found = runs.runs(7)[0]
    assert (found.stage, found.progress, found.eta_s) == ("learning", 0.25, 12.0)
    assert (found.cause, found.owner) == (Cause.BUTTON, owner_name())
    runs.end(run_id, RunState.FAILED, error="out of memory")
    assert runs.runs(7)[0].error == "out of memory"
    with pytest.raises(LeaseLostError):
        runs.renew(run_id)
    assert runs.claim(7, Cause.RETRY) is not None


def test_a_lease_that_ran_out_is_taken_over_and_the_sleeper_notices(store):
    sleeper = RunRepository(store, owner="elsewhere/1", lease_s=0.0)
    awake = RunRepository(store, owner="elsewhere/2")
    run_id = sleeper.claim(7, Cause.COUNT)
    assert awake.abandon_dead() == 1
    assert awake.claim(7, Cause.RETRY) is not None
    for act in (sleeper.renew, lambda r: sleeper.report(r, stage="learning")):
        with pytest.raises(LeaseLostError):
            act(run_id)


def test_a_lease_that_is_renewed_at_the_last_moment_is_kept(store, monkeypatch):
    late = RunRepository(store, owner="elsewhere/1", lease_s=0.0)
    run_id = late.claim(7, Cause.COUNT)
    other = RunRepository(store, owner="elsewhere/2")
    seen = other._dead()
    assert [run.id for run in seen] == [run_id]
    RunRepository(store, owner="elsewhere/1").renew(run_id)
    monkeypatch.setattr(other, "_dead", lambda: seen)
    assert other.abandon_dead() == 0
    assert other.runs(7)[0].state is RunState.RUNNING


def test_the_run_of_a_dead_process_of_this_machine_is_free_at_once(store):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = owner_name().partition("/")[0]
    RunRepository(store, owner=f"{host}/{dead.pid}/abcd").claim(7, Cause.COUNT)
    RunRepository(store, owner=f"elsewhere/{dead.pid}/abcd").claim(8, Cause.COUNT)
    mine = RunRepository(store)
    mine.claim(9, Cause.COUNT)
    assert mine.abandon_dead() == 1
    states = {run.project_id: run.state for run in mine.runs()}
    assert states == {7: RunState.ABANDONED, 8: RunState.RUNNING, 9: RunState.RUNNING}


def test_a_restarted_container_takes_its_own_old_run_over_at_once(store):
    host, process, _ = owner_name().split("/")
    RunRepository(store, owner=f"{host}/{process}/before").claim(7, Cause.COUNT)
    assert RunRepository(store).abandon_dead() == 1


def test_the_newest_wish_counts(store):
    runs = RunRepository(store)
    assert runs.requested_us(7) is None
    runs.request(7)
    first = runs.requested_us(7)
    runs.request(7)
    assert runs.requested_us(7) >= first
    assert runs.button_us(7) is None
