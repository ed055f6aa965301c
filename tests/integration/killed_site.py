"""The server and the trainer that a campaign kills, and the annotators before them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backend.cli.label_studio_process import free_port
from backend.label_studio.brush import encode_mask
from backend.label_studio.event import parse_events
from research.bench.server import BenchError, BenchServer
from research.label_studio.sample import (
    annotation_body,
    deletion_body,
    event_body,
    predict_body,
    setup_body,
)
from tests.integration.killing_points import aim

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).parent / "learning_processes.py"
JSON = {"Content-Type": "application/json"}
PATIENCE_S = 900
AIM_S = 20  # a place that is not reached in this time is given up
ANNOTATORS = 2


def _rle():
    mask = np.zeros((256, 256), bool)
    mask[20:60, 20:90] = True
    return encode_mask(mask)


def _result():
    """One region, and what it is called: of regions without a name nothing is learned."""
    mask, kind = event_body(1, rle=_rle())["annotation"]["result"]
    name = {"from_name": "part_0", "type": "textarea", "value": {"text": ["lid"]}}
    return [mask, kind, kind | name]


RESULT = _result()


@dataclass
class History:
    """One annotation: which states of it may be the newest that the backend knows.

    Attributes:
        task: it belongs to.
        possible: keys of the event acknowledged last, and of those sent in vain since.
        is_known: any event of it was acknowledged.
    """

    task: int
    possible: list[str]
    is_known: bool = False


class Annotator:
    """Sends new tasks, changes, second opinions and deletions, one after another."""

    def __init__(self, site, me):
        self.site, self.choose, self.number = site, random.Random(me), me + 1
        self.histories, self.acknowledged, self.open = {}, [], []

    def run(self):
        while not self.site.done.is_set():
            self.number += ANNOTATORS
            self.act()
            time.sleep(self.site.pause_s)

    def act(self):
        what = self.choose.random()
        if not self.open or what < 0.6:
            self.send(self.number, self.number)
            return
        known = self.choose.choice(self.open)
        task = self.histories[known].task
        if what < 0.75:  # somebody else annotates the same task
            self.send(self.number, task)
        elif what < 0.9:
            self.send(known, task)
        else:
            self.open.remove(known)
            self.post(deletion_body(known), known, task)

    def send(self, annotation_id, task):
        urls = [f"{task}a.png", f"{task}b.png"]
        body = annotation_body(self.number, RESULT, urls=urls, task_id=task)
        body["annotation"]["id"] = annotation_id
        body["annotation"]["completed_by"] = annotation_id
        if annotation_id not in self.histories:
            self.open.append(annotation_id)
        self.post(body, annotation_id, task)

    def post(self, body, annotation_id, task):
        content = json.dumps(body).encode()
        (event,) = parse_events(content)
        history = self.histories.setdefault(annotation_id, History(task, []))
        try:
            reply = self.site.server.ask("POST", "/webhook", content, JSON, timeout_s=10)
        except BenchError:
            reply = None
        if reply is not None and reply.status in (200, 201):
            history.possible, history.is_known = [event.key], True
            self.acknowledged.append(content)
        else:  # Label Studio would not send it again; it may have been kept all the same
            history.possible.append(event.key)
            time.sleep(0.02)


class Site:
    """The two processes, and the annotators before them."""

    def __init__(self, folder, *, pause_s):
        self.folder, self.port, self.pause_s = folder, free_port(), pause_s
        self.server = BenchServer(self.port, folder)
        self.processes = {}
        self.done = threading.Event()  # nobody annotates any more
        self.over = threading.Event()  # nobody looks either
        self.annotators = [Annotator(self, me) for me in range(ANNOTATORS)]
        self.answers = defaultdict(set)
        self.answered = 0
        self.announced = set()
        self.problems = []
        self.kills = Counter()
        self.misses = Counter()

    def __enter__(self):
        folders = (ROOT,)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CALICO_", "LABEL_"))}
        self.log = (self.folder / "log").open("wb")
        self.nursery = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(self.folder)],
            cwd=ROOT,
            env=kept | {"PYTHONPATH": os.pathsep.join(map(str, folders))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        return self

    def __exit__(self, *_):
        self.done.set()
        self.over.set()
        for name in tuple(self.processes):
            self.kill(name)
        self.nursery.stdin.close()
        self.nursery.wait()
        self.nursery.stdout.close()
        self.log.close()

    def order(self, **words):
        self.nursery.stdin.write(json.dumps(words) + "\n")
        self.nursery.stdin.flush()
        return json.loads(self.nursery.stdout.readline())

    def spawn(self, name):
        self.processes[name] = self.order(name=name, port=self.port)["process"]

    def kill(self, name):
        group = self.processes.pop(name)
        with suppress(ProcessLookupError):  # it killed itself
            os.killpg(group, signal.SIGKILL)
        self.order(gone=group)

    def kill_worker(self):
        """Kills the process that answers; the one that watches it starts another."""
        watcher = self.processes["web"]
        before = _children(watcher)
        for process in before:
            os.kill(process, signal.SIGKILL)
        self.wait(lambda: set(_children(watcher)) - set(before), "a new worker")
        self.wait_until_up()

    def wait_until_up(self):
        self.wait(self._is_up, "an answer")

    def wait(self, question, what, seconds=PATIENCE_S):
        deadline = time.monotonic() + seconds
        while not question():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {what} in {seconds} s")
            time.sleep(0.01)

    def _is_up(self):
        try:
            return self.server.ask("GET", "/health", timeout_s=5).status == 200
        except BenchError:
            return False

    def strike(self, kill, choose):
        """Kills once and has everything back."""
        self.kills[kill.kind] += 1
        self.kills[str(kill)] += kill.point is not None
        if kill.kind == "worker":
            time.sleep(choose.uniform(0.02, 0.5))
            self.kill_worker()
            return
        if kill.kind.endswith("starting"):
            (name,) = kill.victims
            self.kill(name)
            self.spawn(name)
            time.sleep(choose.uniform(0.0, 0.4))
        elif kill.point is None:
            time.sleep(choose.uniform(0.02, 0.5))
        else:
            self._aim(kill)
        for name in kill.victims:
            self.kill(name)
        for name in kill.victims:
            self.spawn(name)
        if "web" in kill.victims:
            self.wait_until_up()

    def _aim(self, kill):
        (name,) = kill.victims
        order = self.folder / f"aim-{name}"
        aim(order, kill.point, kill.passes)
        if kill.point == "while the database is opened":
            self.kill(name)
            self.spawn(name)
        try:
            self.wait(lambda: not _is_running(self.processes[name]), "self-kill", seconds=AIM_S)
        except TimeoutError:
            self.misses[str(kill)] += 1
        order.unlink(missing_ok=True)

    def look(self):
        """Asks for predictions all the time, and notes which version says what."""
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
                time.sleep(0.02)
                continue
            self._note(reply, setup)
            time.sleep(0.1)

    def _note(self, reply, setup):
        if reply.status != 200 or setup.status != 200:
            self.problems.append((reply.status, setup.status))
            return
        (item,) = json.loads(reply.body)["results"]
        if "problem" in item:
            self.problems.append(item["problem"])
        elif "result" in item:
            self.answers[item["model_version"]].add(round(item["score"], 4))
            self.answered += 1
        self.announced.add(json.loads(setup.body)["model_version"])


def _children(process):
    try:
        path = Path(f"/proc/{process}/task/{process}/children")
        return [int(number) for number in path.read_text().split()]
    except FileNotFoundError:
        return []


def _is_running(process):
    """Whether a process lives; a killed one stays listed until it is collected."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
