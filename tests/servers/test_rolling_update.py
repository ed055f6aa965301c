"""Servers are killed and replaced one after another under load: no request fails."""

from __future__ import annotations

import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from backend.storage.store import open_store
from research.bench.balancer import running_balancer
from research.label_studio.sample import event_body, predict_body
from tests.integration.counting_model import BASE
from tests.integration.studio_double import PROJECT
from tests.servers.fleet import fleet_of, wait_for
from tests.unit.learning.databases import database_url, postgres_server  # noqa: F401

CLIENTS = 8
pytestmark = pytest.mark.slow


class Client(threading.Thread):
    """Predicts and corrects in turn until it is told to stop; keeps what went wrong."""

    def __init__(self, url, number):
        super().__init__(daemon=True)
        self._url, self._number = url, number
        self.is_over = threading.Event()
        self.asked, self.bad, self.kept = 0, [], set()

    def run(self):
        with httpx.Client(timeout=100) as http:
            for turn in itertools.count():
                if self.is_over.is_set():
                    return
                self._predict(http, turn)
                self._correct(http, self._number * 1_000_000 + turn)

    def _predict(self, http, turn):
        task = self._number * 1000 + turn % 5
        body = predict_body([[f"{task}-a.png", f"{task}-b.png"]], first_task_id=task)
        body["project"], body["tasks"][0]["project"] = f"{PROJECT}.1", PROJECT
        answer = http.post(f"{self._url}/predict", json=body)
        self._note(answer, {200})
        if answer.status_code == 200:
            (given,) = answer.json()["results"]
            if given["model_version"] != BASE or not given["result"]:
                self.bad.append(f"stamped {given['model_version']}")

    def _correct(self, http, annotation):
        event = event_body(annotation, rle=[1] * 200)
        answer = http.post(f"{self._url}/webhook", content=json.dumps(event))
        self._note(answer, {200, 201})
        if answer.status_code in (200, 201):
            self.kept.add(annotation)

    def _note(self, answer, good):
        self.asked += 1
        if answer.status_code not in good:
            self.bad.append(f"{answer.status_code} {answer.text[:200]}")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_two_servers_are_killed_and_replaced_in_turn_without_a_failed_request(
    database_url,  # noqa: F811
    tmp_path,
):
    with ExitStack() as stack:
        fleet = stack.enter_context(fleet_of(tmp_path, database_url, servers=2, tasks=1))
        ports = [fleet.port(number) for number in range(2)]
        balancer = stack.enter_context(running_balancer(ports))
        clients = [Client(balancer.url, number + 1) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        wait_for(lambda: sum(client.asked for client in clients) >= 100, 120)
        for number in range(2):
            fleet.kill(number)  # without a word, in the middle of its requests
            new = fleet.start(stack, fleet.studio_url)
            wait_for(lambda new=new: fleet.is_ready(new), 120)
            ports = [*ports[1:], fleet.port(new)]
            balancer.ports = tuple(ports)
        before = sum(client.asked for client in clients)
        wait_for(lambda: sum(client.asked for client in clients) >= before + 100, 120)
        for client in clients:
            client.is_over.set()
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(threading.Thread.join, clients))
        assert [bad for client in clients for bad in client.bad] == []
        assert sum(client.asked for client in clients) >= 300
        assert balancer.repeated > 0
        store = open_store(database_url, is_guest=True)
        heads = {head.annotation_id for head in store.heads(14)}
        store.close()
        assert set.union(*(client.kept for client in clients)) <= heads
