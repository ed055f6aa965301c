"""kill -9 of server and trainer while annotators work: nothing acknowledged is lost or doubled,
and no answer is half, corrupt or of another version than it says."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import pytest
from learning_processes import BASE, PROJECT_ID, shown
from test_server import free_port

from backend.cli.bench_server import BenchError, BenchServer
from backend.label_studio.brush import encode_mask
from backend.label_studio.event import parse_events
from backend.label_studio.sample import event_body, predict_body, setup_body
from backend.learning.derivation import Derivation
from backend.learning.held_out import is_held_out
from backend.learning.repository import CorrectionRepository
from backend.learning.rows import Standing
from backend.learning.runs import RunRepository
from backend.learning.schedule import RunState
from backend.store import open_store
from backend.versions import SERVED, Versions, VersionStatus

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).parent / "learning_processes.py"
JSON = {"Content-Type": "application/json"}


def _rle():
    import numpy as np

    mask = np.zeros((256, 256), bool)
    mask[20:60, 20:90] = True
    return encode_mask(mask)


RLE = _rle()


def _body(number):
    """A correction of a task of its own."""
    body = event_body(number, rle=RLE)
    body["annotation"]["task"] = body["task"]["id"] = number
    return json.dumps(body).encode()


class Site:
    """The two processes, and the annotators before them."""

    def __init__(self, folder, *, pause_s):
        self.pause_s = pause_s
        self.folder, self.port = folder, free_port()
        self.server = BenchServer(self.port, folder)
        self.processes = {}
        self.done = threading.Event()  # nobody annotates any more
        self.over = threading.Event()  # nobody looks either
        self.acknowledged = set()
        self.answers = defaultdict(set)
        self.announced = set()
        self.problems = []

    def spawn(self, name):
        arguments = ["serve", str(self.port)] if name == "web" else ["train"]
        folders = (ROOT, ROOT / "tests" / "integration", ROOT / "tests" / "unit" / "learning")
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("CALICO_", "LABEL_"))
        }
        environment["PYTHONPATH"] = os.pathsep.join(map(str, folders))
        self.processes[name] = subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments, str(self.folder)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait_until_up(self, name):
        process = self.processes[name]
        if name == "trainer":
            assert process.stdout.readline() == b"ready\n"
            return
        deadline = time.monotonic() + 300
        while True:
            try:
                self.server.ask("GET", "/health", timeout_s=5)
            except BenchError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            else:
                return

    def kill(self, name):
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()

    def annotate(self, first):
        number = first
        while not self.done.is_set():
            try:
                reply = self.server.ask("POST", "/webhook", _body(number), JSON, timeout_s=10)
            except BenchError:
                time.sleep(0.05)  # Label Studio would not repeat it; the number is not counted
                number += 2
                continue
            if reply.status in (200, 201):
                self.acknowledged.add(number)
            number += 2
            time.sleep(self.pause_s)

    def look(self):
        number = 0
        while not self.over.is_set():
            number += 1
            body = json.dumps(predict_body([[f"{number}.png"]], first_task_id=10**6 + number))
            try:
                reply = self.server.ask("POST", "/predict", body.encode(), JSON, timeout_s=10)
                setup = self.server.ask(
                    "POST", "/setup", json.dumps(setup_body()).encode(), JSON, timeout_s=10
                )
            except BenchError:
                time.sleep(0.05)
                continue
            self._note(reply, setup)

    def _note(self, reply, setup):
        if reply.status != 200 or setup.status != 200:
            self.problems.append((reply.status, setup.status))
            return
        (item,) = json.loads(reply.body)["results"]
        if "problem" in item:
            self.problems.append(item["problem"])
        elif "result" in item:
            self.answers[item["model_version"]].add(round(item["score"], 4))
        self.announced.add(json.loads(setup.body)["model_version"])


def _disturb(site, kills, seed):
    choose = random.Random(seed)
    threads = [threading.Thread(target=site.annotate, args=(first,)) for first in (1, 2)]
    threads.append(threading.Thread(target=site.look))
    try:
        for name in ("web", "trainer"):
            site.spawn(name)
        for name in ("web", "trainer"):
            site.wait_until_up(name)
        for thread in threads:
            thread.start()
        for number in range(kills):
            time.sleep(choose.uniform(0.1, 1.0))
            victims = (("trainer",), ("web",), ("web", "trainer"))[number % 3]
            for name in victims:
                site.kill(name)
            for name in victims:
                site.spawn(name)
            for name in victims:
                site.wait_until_up(name)
        site.done.set()
        for thread in threads[:2]:
            thread.join()
        _wait_until_learned(site)
        site.over.set()
        threads[2].join()
    finally:
        site.done.set()
        site.over.set()
        for name in tuple(site.processes):
            site.kill(name)


def _wait_until_learned(site):
    """The trainer of the last round ends what the killed ones began, and its version answers."""
    store = open_store(f"sqlite:///{site.folder / 'calico.sqlite3'}", is_guest=True)
    runs, deadline = RunRepository(store), time.monotonic() + 300
    versions = Versions(store, site.folder / "adapters")
    trained = {n for n in site.acknowledged if not is_held_out(PROJECT_ID, n)}
    while True:
        current = versions.current(PROJECT_ID)
        running = [run for run in runs.runs() if run.state is RunState.RUNNING]
        is_learned = current is not None and current.corrections >= len(trained)
        if is_learned and not running and current.id in site.answers:
            break
        assert time.monotonic() < deadline, runs.runs(limit=3)
        time.sleep(0.1)
    store.close()


def _check(site):
    store = open_store(f"sqlite:///{site.folder / 'calico.sqlite3'}")
    heads = {head.annotation_id for head in store.heads(PROJECT_ID) if not head.is_deleted}
    assert site.acknowledged <= heads
    # Everything once more, as Label Studio or the reconciler might: nothing is new.
    again = [event for n in sorted(site.acknowledged) for event in parse_events(_body(n))]
    assert store.record_events(again) == 0
    repository = CorrectionRepository(store)
    Derivation(repository).derive(PROJECT_ID)
    corrected = [r.task_id for r in repository.tasks(PROJECT_ID)]
    assert sorted(corrected) == sorted(heads)
    assert all(r.standing is Standing.CORRECTED for r in repository.tasks(PROJECT_ID))

    versions = Versions(store, site.folder / "adapters")
    found = {version.id: version for version in versions.all(PROJECT_ID)}
    published = [version for version in found.values() if version.status in SERVED]
    assert not [v for v in found.values() if v.status is VersionStatus.QUARANTINED]
    line, place = 0, versions.current(PROJECT_ID)
    learned = set(json.loads((versions.verify(place) / "learned.json").read_text()))
    assert learned >= {n for n in site.acknowledged if not is_held_out(PROJECT_ID, n)}
    while place is not None:
        line, place = line + 1, None if place.parent_id is None else found[place.parent_id]
    assert line == len(published)

    assert site.problems == []
    assert (site.announced | set(site.answers)) <= {BASE, *(v.id for v in published)}
    assert all(len(scores) == 1 for scores in site.answers.values()), site.answers
    whole = [v for v in published if v.id in site.answers and versions.path(v).is_dir()]
    for version in whole:
        content = (versions.verify(version) / "learned.json").read_bytes()
        assert site.answers[version.id] == {shown(content)}
    store.close()


def test_a_few_kills_lose_double_and_confuse_nothing(tmp_path):
    site = Site(tmp_path, pause_s=0.1)
    _disturb(site, kills=5, seed=1)
    assert len(site.acknowledged) >= 10
    assert len(site.answers) >= 2
    _check(site)


@pytest.mark.slow
def test_300_kills_lose_double_and_confuse_nothing(tmp_path):
    site = Site(tmp_path, pause_s=0.3)
    _disturb(site, kills=300, seed=2)
    assert len(site.acknowledged) >= 300
    _check(site)
