"""Two trainers on two hosts: one project is trained by one of them, and taken over after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from backend.learning.training_runs import RunRepository
from backend.storage.store import open_store
from tests.servers.fleet import wait_for
from tests.servers.processes import IN_CONTAINER, running
from tests.unit.learning.databases import database_url, postgres_server  # noqa: F401
from tests.unit.learning.school import PROJECT, REGIONS, TRAINED, event

TRAINER = "tests.servers.trainer_process"
pytestmark = pytest.mark.slow


@pytest.mark.skipif(
    subprocess.run([*IN_CONTAINER, "true"], check=False, capture_output=True).returncode != 0,
    reason="host names and process namespaces of their own cannot be made here",
)
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_killed_trainers_run_is_resumed_within_65_s(database_url, tmp_path):  # noqa: F811
    store = open_store(database_url, is_guest=True, commit_timeout_s=30)
    runs = RunRepository(store)
    lingering = tmp_path / "lingering"
    lingering.touch()
    store.record_events([event(100 + task, REGIONS, task=task) for task in TRAINED[:3]])

    def running_at():
        """Hosts of the runs that have not ended."""
        return [run.owner.partition(":")[0] for run in runs.running()]

    first = running(TRAINER, database_url, tmp_path, host="one.example")
    second = running(TRAINER, database_url, tmp_path, host="two.example")
    with first as one, second as two:
        wait_for(running_at, 120)
        (host,) = running_at()
        killed = one if host == "one.example" else two
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        began, hosts = time.monotonic(), running_at()
        while hosts in ([], [host]):
            hosts = running_at()
            assert time.monotonic() - began <= 65
            time.sleep(0.1)
        assert hosts == [{"one.example": "two.example"}.get(host, "one.example")]
        lingering.unlink()
        wait_for(lambda: not running_at(), 60)
    found = runs.runs(PROJECT)
    assert len([run for run in found if run.state.value == "abandoned"]) == 1
    assert len({run.began_at for run in found}) == len(found)
    store.close()
