"""The configuration of HAProxy that a deployment uses, with HAProxy itself, on loopback."""

from __future__ import annotations

import re
from contextlib import ExitStack

import httpx
import pytest

from backend.storage.store import open_store
from research.bench.balancer import HAPROXY, running_haproxy
from research.label_studio.sample import PROJECT_ID, predict_body
from tests.integration.studio_double import PROJECT
from tests.servers.fleet import fleet_of, wait_for
from tests.servers.test_rolling_update import CLIENTS, Client
from tests.unit.learning.databases import database_url, postgres_server  # noqa: F401

COUNTER = re.compile(r'calico_requests_total{.*endpoint="[^"]*predict"')
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(HAPROXY is None, reason="no haproxy: apt-get install haproxy"),
]


def asked(clients):
    return sum(client.asked for client in clients)


def journaled(url):
    """The annotations whose events are in the database."""
    store = open_store(url, is_guest=True)
    heads = {head.annotation_id for head in store.heads(PROJECT_ID)}
    store.close()
    return heads


def predict(url, task):
    body = predict_body([[f"{task}-a.png", f"{task}-b.png"]], first_task_id=task)
    body["project"], body["tasks"][0]["project"] = f"{PROJECT}.1", PROJECT
    return httpx.post(f"{url}/predict", json=body, timeout=100).raise_for_status()


def predictions_of(url):
    """How many requests to predict a server has answered."""
    lines = httpx.get(f"{url}/metrics", timeout=30).text.splitlines()
    counts = [line for line in lines if COUNTER.match(line)]
    return sum(float(line.rpartition(" ")[2]) for line in counts)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_task_stays_at_its_server_and_no_request_fails_while_servers_are_replaced(
    database_url,  # noqa: F811
    tmp_path,
):
    with ExitStack() as stack:
        fleet = stack.enter_context(fleet_of(tmp_path, database_url, servers=2, tasks=1))
        port = stack.enter_context(running_haproxy((fleet.port(0), fleet.port(1))))
        url = f"http://127.0.0.1:{port}"
        answered = []
        for task in range(1, 9):
            before = [predictions_of(one) for one in fleet.urls]
            for _ in range(4):
                predict(url, task)
            after = [predictions_of(one) for one in fleet.urls]
            answered.append(tuple(b - a for a, b in zip(before, after, strict=True)))
        assert set(answered) == {(4, 0), (0, 4)}, "a task has one server, and both have tasks"

        clients = [Client(url, number + 1) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        wait_for(lambda: asked(clients) >= 100, 120)
        for number in range(2):
            fleet.kill(number)  # without a word, in the middle of its requests
            new = fleet.start(stack, fleet.studio_url, port=fleet.port(number))
            wait_for(lambda new=new: fleet.is_ready(new), 120)
            # HAProxy sends it requests again, so the next one may go.
            wait_for(lambda new=new: predictions_of(fleet.urls[new]) > 0, 120)
            before = asked(clients)
            wait_for(lambda before=before: asked(clients) >= before + 100, 120)
        for client in clients:
            client.is_over.set()
        for client in clients:
            client.join()
        assert [bad for client in clients for bad in client.bad] == []
        assert asked(clients) >= 300
        assert set.union(*(client.kept for client in clients)) <= journaled(database_url)
