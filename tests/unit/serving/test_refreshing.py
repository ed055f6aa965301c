"""After a promotion: every untouched task once, behind everybody else, until the next version."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pytest

from backend.errors import LabelStudioError
from backend.label_studio.label_config import parse_label_config
from backend.serving.jobs import PredictionResult, Problem
from backend.serving.refresh_progress import RefreshProgress, RefreshStatus
from backend.serving.refreshing import Refresher, RefreshWindow, TaskDescriptors
from backend.serving.studio import PendingTasks
from backend.storage.store import open_store
from backend.storage.tables import refresh_progress
from backend.types import Task
from research.label_studio.sample import REPEATER_CONFIG
from tests.unit.learning.databases import database_url, postgres_server  # noqa: F401

PROJECT = 7
SCHEMA = parse_label_config(REPEATER_CONFIG)


@dataclass(frozen=True)
class Version:
    id: str


def look(task_id):
    """Even and odd tasks look like two kinds of things."""
    angle = (0.0 if task_id % 2 else 1.2) + 0.01 * task_id
    return np.array([np.cos(angle), np.sin(angle)], np.float32)


@dataclass
class FakeStudio:
    """Tasks by id, with the versions that have predicted them."""

    tasks: dict[int, set[str]]
    pushed: list = field(default_factory=list)
    shown: list = field(default_factory=list)
    begun: set = field(default_factory=set)
    page: int = 3
    fails: int = 0
    scores: dict = field(default_factory=dict)

    def pending(self, project_id, version, after):
        if self.fails:
            self.fails -= 1
            raise LabelStudioError("away")
        found = [
            t
            for t, seen in sorted(self.tasks.items())
            if version not in seen and t not in self.begun and t > after
        ]
        tasks = tuple(Task(t, project_id, ("a.png",)) for t in found[: self.page])
        return PendingTasks(tasks, SCHEMA, len(found))

    def least_certain(self, project_id, version, limit):
        assert version not in self.shown  # Label Studio would know no scores any more
        found = [t for t, seen in self.tasks.items() if version not in seen]
        found.sort(key=lambda task: (self.scores.get(task, 1.0), task))
        tasks = tuple(Task(t, project_id, ("a.png",)) for t in found[:limit])
        return PendingTasks(tasks, SCHEMA, len(tasks))

    def is_pending(self, project_id, version, task_id):
        return task_id not in self.begun and version not in self.tasks[task_id]

    def push(self, task, answer, place):
        self.tasks[task.id].add(answer.version)
        self.pushed.append((task.id, answer.version, answer.score, place))

    def show(self, project_id, version):
        self.shown.append(version)
        return any(version in seen for seen in self.tasks.values())


@dataclass
class FakeService:
    """Predicts at once; `before` runs first."""

    version: Version | None = Version("v1")
    quiet_s: float = 1e9
    before: object = None
    bad: tuple = ()
    asked: list = field(default_factory=list)

    def current(self, project_id):
        return self.version

    def predict_ahead(self, task, schema, version):
        self.asked.append(task.id)
        if self.before:
            self.before(task.id)
        if task.id in self.bad:
            return PredictionResult(b"", 0.0, version.id, Problem("MediaError", "gone", True))
        return PredictionResult(b"[]", task.id / 100, version.id, descriptor=look(task.id))


@pytest.fixture
def store(tmp_path):
    made = open_store(f"sqlite:///{tmp_path / 'a.sqlite3'}")
    yield made
    made.close()


@pytest.fixture
def start(store):
    def make(studio, service, **options):
        chosen = {"pause_s": 0.0, "quiet_s": 0.0, "again_s": 1e9} | options
        return Refresher(
            lambda: (PROJECT,), service, studio, TaskDescriptors(store), base=lambda: "b1", **chosen
        )

    return make


def studio(count=8, **options):
    return FakeStudio({task: set() for task in range(1, count + 1)}, **options)


def test_every_untouched_task_is_pushed_once_with_its_score(start):
    there, service = studio(), FakeService()
    there.begun.add(4)
    refresher = start(there, service)
    assert refresher.round() == 7
    assert [(t, v, s) for t, v, s, _ in there.pushed] == [
        (t, "v1", t / 100) for t in (1, 2, 3, 5, 6, 7, 8)
    ]
    status = refresher.status(PROJECT)
    assert (status.version, status.done, status.total, status.is_running) == ("v1", 7, 7, False)
    assert refresher.round() == 0
    assert len(service.asked) == 7


def test_a_project_that_serves_the_base_is_left_alone(start):
    there = studio()
    assert start(there, FakeService(version=None)).round() == 0
    assert not there.shown


def test_groups_that_look_alike_share_a_cluster_and_are_neighbours(start):
    there = studio(12)
    start(there, FakeService()).round()
    places = {task: place for task, _, _, place in there.pushed}
    assert len({places[t].cluster for t in (1, 3, 5, 7)}) == 1
    assert len({places[t].cluster for t in (2, 4, 6, 8)}) == 1
    assert places[1].cluster != places[2].cluster
    assert places[11].neighbors == (9, 7, 5, 3, 1)
    assert places[1].neighbors == ()  # the first: nobody was there before it


def test_clusters_stay_the_same_after_a_restart_and_for_the_next_version(start):
    there, service = studio(12), FakeService()
    start(there, service).round()
    first = {task: place.cluster for task, _, _, place in there.pushed}
    service.version = Version("v2")
    there.pushed.clear()
    start(there, service).round()
    assert {task: place.cluster for task, _, _, place in there.pushed} == first
    assert len(there.pushed[0][3].neighbors) == 5  # all are known by now


def test_a_newer_version_ends_the_pass(start):
    there, service = studio(), FakeService()

    def publish(task_id):
        if task_id == 2:
            service.version = Version("v2")

    service.before = publish
    refresher = start(there, service)
    assert refresher.round() == 2
    assert refresher.round() == 8
    assert all("v2" in seen for seen in there.tasks.values())
    assert service.asked == [1, 2, *range(1, 9)]


def test_a_task_that_is_opened_meanwhile_is_not_touched(start):
    there, service = studio(), FakeService()
    service.before = lambda task_id: there.begun.add(3) if task_id == 3 else None
    start(there, service).round()
    assert [task for task, *_ in there.pushed] == [1, 2, 4, 5, 6, 7, 8]


def test_a_task_that_cannot_be_predicted_holds_nobody_up(start):
    there, service = studio(page=2), FakeService(bad=(1, 2, 3))
    assert start(there, service).round() == 5
    assert service.asked == list(range(1, 9))


def test_it_goes_on_where_it_stopped(start):
    there, service = studio(), FakeService()
    refresher = start(there, service)
    service.before = lambda task_id: refresher.close() if task_id == 3 else None
    assert refresher.round() == 3
    service.before = None
    assert start(there, service).round() == 5
    assert service.asked == list(range(1, 9))


def test_it_waits_while_somebody_waits(start):
    there, service = studio(2), FakeService(quiet_s=0.0)
    refresher = start(there, service, quiet_s=5.0)
    polls = []

    def wait(seconds):
        polls.append(seconds)
        if len(polls) == 4:
            assert service.asked == []
            service.quiet_s = 6.0

    refresher._is_closed.wait = wait
    assert refresher.round() == 2
    assert len(polls) >= 4


def test_label_studio_being_away_is_tried_again(start):
    there, service = studio(fails=1), FakeService()
    refresher = start(there, service, again_s=0.0)
    assert refresher.round() == 0
    assert refresher.round() == 8


def test_new_tasks_of_a_finished_project_are_found_later(start):
    there, service = studio(2), FakeService()
    refresher = start(there, service, again_s=0.0)
    refresher.round()
    there.tasks[9] = set()
    assert refresher.round() == 1
    assert service.asked == [1, 2, 9]


def test_the_order_of_tasks_follows_the_new_scores(start):
    there = studio()
    start(there, FakeService()).round()
    assert there.shown == ["v1", "v1"]  # before there were any, and after the first page


def at(hour):
    return datetime(2026, 1, 1, hour, tzinfo=UTC)


def test_outside_of_the_hours_only_the_least_certain_tasks_come(start):
    there, service, hour = studio(scores={6: 0.1, 2: 0.3}), FakeService(), [12]
    window = RefreshWindow(3, (20, 6), now=lambda: at(hour[0]))
    refresher = start(there, service, window=window, again_s=0.0)
    assert refresher.round() == 3
    assert service.asked == [6, 2, 1]
    assert refresher.status(PROJECT).total == 3
    assert refresher.round() == 0
    hour[0] = 23
    assert refresher.round() == 5
    assert sorted(service.asked) == list(range(1, 9))


def test_the_end_of_the_hours_ends_the_pass(start):
    there, service, hour = studio(), FakeService(), [5]
    window = RefreshWindow(1, (20, 6), now=lambda: at(hour[0]))
    service.before = lambda task_id: hour.__setitem__(0, 6 if task_id == 2 else 5)
    assert start(there, service, window=window).round() == 2


@pytest.mark.parametrize(
    ("hours", "is_open"),
    [
        ((20, 6), [*range(6), *range(20, 24)]),
        ((0, 24), list(range(24))),
        ((9, 11), [9, 10]),
        (None, []),
    ],
)
def test_the_hours_may_pass_midnight(hours, is_open):
    found = [h for h in range(24) if RefreshWindow(5, hours, now=lambda h=h: at(h)).is_open]
    assert found == is_open
    assert RefreshWindow().is_open


def test_each_version_has_its_own_count():
    window = RefreshWindow(None, (0, 1))
    assert window.left(PROJECT, "v1") == 200
    window.count(PROJECT, "v1")
    assert (window.left(PROJECT, "v1"), window.left(PROJECT, "v2")) == (199, 200)
    window.count(PROJECT, "v2")
    assert window.left(PROJECT, "v2") == 199


def test_every_server_shows_how_the_one_that_predicts_stands(database_url):  # noqa: F811
    shared = open_store(database_url, commit_timeout_s=30)
    writing, reading = RefreshProgress(shared), RefreshProgress(shared)
    for done in range(4):
        writing.put(PROJECT, RefreshStatus("v1", done, 9, True))
    writing.put(PROJECT, RefreshStatus("v1", 4, 9, False))
    shared.write(lambda _: None, timeout_s=30)
    assert writing.get(PROJECT) == RefreshStatus("v1", 4, 9, False)
    assert reading.get(PROJECT) == (writing.get(PROJECT) if shared.is_shared else None)
    writing.put(PROJECT, RefreshStatus("v2", 0, 9, True))
    shared.close()


def test_a_pass_whose_server_was_killed_is_not_shown_as_running(database_url):  # noqa: F811
    shared = open_store(database_url, commit_timeout_s=30)
    if shared.is_shared:
        RefreshProgress(shared).put(PROJECT, RefreshStatus("v1", 1, 9, True))
        told = refresh_progress.c.told_at_us
        aged = refresh_progress.update().values(told_at_us=told - 300_000_000)
        shared.write(lambda _: None, timeout_s=30)
        assert RefreshProgress(shared).get(PROJECT) == RefreshStatus("v1", 1, 9, True)
        shared.write(lambda connection: connection.execute(aged).close(), timeout_s=30)
        assert RefreshProgress(shared).get(PROJECT) == RefreshStatus("v1", 1, 9, False)
    shared.close()
