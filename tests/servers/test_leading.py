"""What one of several servers does for all, also after that server was killed."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from backend.storage.servers import present_servers
from backend.storage.tables import owed_answer
from research.label_studio.sample import predict_body
from tests.integration.counting_model import BASE
from tests.integration.studio_double import PROJECT
from tests.servers.fleet import fleet_of, wait_for
from tests.unit.learning.databases import database_url, postgres_server  # noqa: F401

pytestmark = pytest.mark.slow
on_postgres = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
TASKS = 200


@on_postgres
def test_three_servers_predict_every_task_once_after_a_promotion(database_url, tmp_path):  # noqa: F811
    with fleet_of(tmp_path, database_url, servers=3, tasks=TASKS) as fleet:
        wait_for(lambda: len(present_servers(fleet.store)) == 3, 30)
        for url in fleet.urls:  # every server says the same
            assert len(httpx.get(f"{url}/status", timeout=30).json()["servers"]) == 3
            assert 'calico_servers{model="ready"' in httpx.get(f"{url}/metrics", timeout=30).text
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


@on_postgres
def test_what_a_killed_server_owed_is_sent_once_by_another(database_url, tmp_path):  # noqa: F811
    tasks = range(1, 21)
    with fleet_of(tmp_path, database_url, servers=2, tasks=20, BUDGET_S=4) as fleet:
        wait_for(lambda: len(present_servers(fleet.store)) == 2, 30)
        most = tmp_path / "notes.most"
        most.write_text("2")
        body = predict_body([[f"{task}-a.png", f"{task}-b.png"] for task in tasks])
        body["project"] = f"{PROJECT}.1"
        for wire in body["tasks"]:
            wire["project"] = PROJECT
        answer = httpx.post(f"{fleet.urls[0]}/predict", json=body, timeout=60).json()
        # Label Studio stores what has regions.
        for task, given in zip(tasks, answer["results"], strict=True):
            if given.get("result"):
                fleet.studio.add_prediction(task, given["result"], given["model_version"])
        assert len(fleet.stored(BASE)) == 2
        fleet.kill(0)
        most.unlink()
        wait_for(lambda: len(set(fleet.stored(BASE))) == 20, 60)
        assert fleet.stored(BASE) == list(tasks)
        wait_for(lambda: not owed(fleet.store), 30)


def owed(store):
    with store.read() as connection:
        return list(connection.execute(select(owed_answer.c.task_id)).scalars())


def is_worker_of(owner, process):
    """Whether a name is that of the worker of a server; gunicorn forks it."""
    worker = owner.split("/")[1]
    status = Path(f"/proc/{worker}/stat").read_text()
    return int(status.rpartition(")")[2].split()[1]) == process
