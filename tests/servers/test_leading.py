"""What one of several servers does for all, also after that server was killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.storage.servers import present_servers
from tests.servers.fleet import fleet_of, wait_for
from tests.unit.learning.databases import database_url, postgres_server  # noqa: F401

pytestmark = pytest.mark.slow
on_postgres = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
TASKS = 200


@on_postgres
def test_three_servers_predict_every_task_once_after_a_promotion(database_url, tmp_path):  # noqa: F811
    with fleet_of(tmp_path, database_url, servers=3, tasks=TASKS) as fleet:
        wait_for(lambda: len(present_servers(fleet.store)) == 3, 30)
        version = fleet.promote()
        wait_for(lambda: len(fleet.stored(version)) >= 60, 120)
        leaders = [
            number
            for number, process in enumerate(fleet.processes)
            for one in present_servers(fleet.store)
            if "refresh" in one.roles and is_worker_of(one.owner, process.pid)
        ]
        assert len(leaders) == 1
        fleet.kill(leaders[0])
        wait_for(lambda: len(set(fleet.stored(version))) == TASKS, 240)
        assert fleet.stored(version) == list(range(1, TASKS + 1))
        assert fleet.predicted(version) <= TASKS + 10


def is_worker_of(owner, process):
    """Whether a name is that of the worker of a server; gunicorn forks it."""
    worker = owner.split("/")[1]
    status = Path(f"/proc/{worker}/stat").read_text()
    return int(status.rpartition(")")[2].split()[1]) == process
