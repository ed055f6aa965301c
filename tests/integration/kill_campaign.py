"""kill -9 of server and trainer while annotators work, and what must hold afterwards."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass

from backend.clock import to_us
from backend.label_studio.event import parse_events
from backend.learning.derivation import Derivation
from backend.learning.repository import CorrectionRepository
from backend.learning.rows import Standing, state_of
from backend.learning.schedule import RunState, held_out_tasks
from backend.learning.training_runs import RunRepository
from backend.storage.store import open_store
from backend.storage.versions import SERVED, Versions, VersionStatus
from research.label_studio.sample import (
    PROJECT_ID,
)
from tests.integration.counting_model import BASE, FILES, shown
from tests.integration.killed_site import PATIENCE_S, Site
from tests.integration.killing_points import POINTS

KINDS = ("web", "worker", "trainer", "both", "web starting", "trainer starting", "aimed")


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
