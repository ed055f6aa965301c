"""kill -9 of server and trainer while annotators work, and what must hold afterwards."""

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

from backend.clock import to_us
from backend.label_studio.brush import encode_mask
from backend.label_studio.event import parse_events
from backend.learning.derivation import Derivation
from backend.learning.repository import CorrectionRepository
from backend.learning.rows import Standing, state_of
from backend.learning.schedule import RunState, held_out_tasks
from backend.learning.training_runs import RunRepository
from backend.storage.store import open_store
from backend.storage.versions import SERVED, Versions, VersionStatus
from research.bench.server import BenchError, BenchServer
from research.label_studio.sample import (
    PROJECT_ID,
    annotation_body,
    deletion_body,
    event_body,
    predict_body,
    setup_body,
)
from tests.integration.counting_model import BASE, FILES, shown
from tests.integration.killing_points import POINTS, aim
from tests.integration.test_server import free_port

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).parent / "learning_processes.py"
JSON = {"Content-Type": "application/json"}
KINDS = ("web", "worker", "trainer", "both", "web starting", "trainer starting", "aimed")
PATIENCE_S = 900
AIM_S = 20  # a place that is not reached in this time is given up
ANNOTATORS = 2


@dataclass(frozen=True)
class Kill:
    """One kill: of whom, and when or where."""

    kind: str
    victims: tuple[str, ...]
    point: str | None = None
    passes: int = 0

    def __str__(self):
        return self.kind if self.point is None else f"{self.victims[0]} {self.point}"


def plan_kills(count, seed):
    """Half of the kills strike at any moment, half at a place; every place has its turn."""
    choose = random.Random(seed)
    places = [(name, point) for name, points in POINTS.items() for point in points]
    choose.shuffle(places)
    kills = []
    for number in range(count):
        kind = KINDS[number // 2 % (len(KINDS) - 1)] if number % 2 else "aimed"
        if kind == "aimed":
            name, point = places[number // 2 % len(places)]
            passes = choose.randrange(8) if point == "before a commit" else 0
            kills.append(Kill(kind, (name,), point, passes))
        else:
            victims = {"both": ("web", "trainer"), "worker": ("web",)}.get(kind, (kind.split()[0],))
            kills.append(Kill(kind, victims))
    return kills


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


def run_campaign(folder, kills, seed, *, pause_s, on_kill=lambda done: None):
    """Runs one campaign, checks what must hold, and returns its figures."""
    began = time.monotonic()
    choose = random.Random(seed)
    with Site(folder, pause_s=pause_s) as site:
        threads = [threading.Thread(target=one.run) for one in site.annotators]
        threads.append(threading.Thread(target=site.look))
        for name in ("web", "trainer"):
            site.spawn(name)
        site.wait_until_up()
        for thread in threads:
            thread.start()
        try:
            for done, kill in enumerate(plan_kills(kills, seed), start=1):
                site.strike(kill, choose)
                on_kill(done)
            site.done.set()
            for thread in threads[:-1]:
                thread.join()
            _wait_until_learned(site)
        finally:
            site.done.set()
            site.over.set()
        threads[-1].join()
    figures = _check(site)
    return figures | {"seconds": round(time.monotonic() - began)}


def _wait_until_learned(site):
    """The last trainer ends what the killed ones began, and its version answers."""
    store = open_store(f"sqlite:///{site.folder / 'calico.sqlite3'}", is_guest=True)
    versions = Versions(store, site.folder / "adapters")
    runs, repository = RunRepository(store), CorrectionRepository(store)

    def is_learned():
        current = versions.current(PROJECT_ID)
        if current is None or any(run.state is RunState.RUNNING for run in runs.runs()):
            return False
        if _unlearned(versions, repository) != {} or current.id not in site.answers:
            return False
        return _is_derived(repository)

    deadline = time.monotonic() + PATIENCE_S
    while not is_learned():
        assert time.monotonic() < deadline, (_unlearned(versions, repository), runs.runs(limit=3))
        runs.request(PROJECT_ID)  # what a version was rejected for is not tried again by itself
        time.sleep(0.5)
    store.close()


def _is_derived(repository):
    """Whether every event is in the derived rows; a deletion may change a row and teach nothing."""
    heads = defaultdict(list)
    for head in repository.heads(PROJECT_ID):
        heads[head.task_id].append(head)
    states = {
        task_id: state_of(of_task)
        for task_id, of_task in heads.items()
        if not all(head.is_deleted for head in of_task)
    }
    return repository.states(PROJECT_ID) == states


def _unlearned(versions, repository):
    """Task -> (newest state, learned state) of what the current version has not learned."""
    current = versions.current(PROJECT_ID)
    learned = json.loads((versions.verify(current) / FILES[0]).read_text())
    rows = repository.tasks(PROJECT_ID)
    kept = held_out_tasks(PROJECT_ID, rows)
    return {
        row.task_id: (to_us(row.updated_at), learned.get(str(row.task_id)))
        for row in rows
        if row.task_id not in kept and learned.get(str(row.task_id)) != to_us(row.updated_at)
    }


def _check(site):
    store = open_store(f"sqlite:///{site.folder / 'calico.sqlite3'}")
    lost, corrections = _check_journal(site, store)
    versions = Versions(store, site.folder / "adapters")
    wrong = _check_answers(site, versions)
    states = Counter(run.state.value for run in RunRepository(store).runs(limit=100_000))
    statuses = Counter(version.status.value for version in versions.all())
    store.close()
    return {
        "kills": dict(sorted(site.kills.items())),
        "places_not_reached": dict(sorted(site.misses.items())),
        "acknowledged": sum(len(one.acknowledged) for one in site.annotators),
        "lost": lost,
        "doubled": 0,
        "corrections": corrections,
        "answers": site.answered,
        "wrong_answers": wrong,
        "versions": dict(sorted(statuses.items())),
        "runs": dict(sorted(states.items())),
    }


def _check_journal(site, store):
    """Nothing acknowledged is lost, and nothing is there twice."""
    histories = {}
    for one in site.annotators:
        histories |= one.histories
    heads = {head.annotation_id: head for head in store.heads(PROJECT_ID)}
    lost = [
        (number, history)
        for number, history in histories.items()
        if (history.is_known and number not in heads)
        or (number in heads and heads[number].key not in history.possible)
    ]
    assert lost == []
    assert heads.keys() <= histories.keys()
    # Everything once more, as Label Studio or the reconciler might: nothing is new.
    bodies = [body for one in site.annotators for body in one.acknowledged]
    assert store.record_events([event for body in bodies for event in parse_events(body)]) == 0
    repository = CorrectionRepository(store)
    before = repository.tasks(PROJECT_ID)
    assert Derivation(repository).derive(PROJECT_ID).changed == 0
    assert Derivation(repository).rebuild(PROJECT_ID).waiting == 0
    after = repository.tasks(PROJECT_ID)
    assert [(old, new) for old, new in zip(before, after, strict=True) if old != new] == []
    live = {histories[n].task for n, head in heads.items() if not head.is_deleted}
    assert sorted(row.task_id for row in before) == sorted(live)
    assert all(row.standing is Standing.CORRECTED for row in before)
    return len(lost), len(before)


def _check_answers(site, versions):
    """No version was half, and every answer was made by the version it names."""
    found = {version.id: version for version in versions.all(PROJECT_ID)}
    published = [version for version in found.values() if version.status in SERVED]
    assert not [v for v in found.values() if v.status is VersionStatus.QUARANTINED]
    line, place = 0, versions.current(PROJECT_ID)
    while place is not None:
        line, place = line + 1, None if place.parent_id is None else found[place.parent_id]
    assert line == len(published)
    assert site.problems == []
    assert (site.announced | set(site.answers)) <= {BASE, *(v.id for v in published)}
    wrong = [name for name, scores in site.answers.items() if len(scores) > 1]
    for version in published:
        if version.id in site.answers and versions.path(version).is_dir():
            content = (versions.verify(version) / FILES[0]).read_bytes()
            wrong += [] if site.answers[version.id] == {shown(content)} else [version.id]
    assert wrong == []
    return len(wrong)


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
