"""Promised predictions: written down before the answer, kept once, worked off after a death."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from sqlalchemy import select

from backend.errors import LabelStudioError
from backend.label_studio.label_config import parse_label_config
from backend.serving.jobs import PredictionResult, Problem
from backend.serving.owed_answers import OwedAnswers, OwedAnswerWorker
from backend.serving.studio import PendingTasks
from backend.storage.store import open_store
from backend.storage.tables import owed_answer
from backend.types import Task
from research.label_studio.sample import REPEATER_CONFIG
from tests.unit.learning.databases import database_url, postgres_server  # noqa: F401

PROJECT = 7
SCHEMA = parse_label_config(REPEATER_CONFIG)
DEAD = "elsewhere/1/abcd"


def a_task(task_id):
    return Task(id=task_id, project_id=PROJECT, image_urls=("a.png",))


@dataclass
class Studio:
    """Tasks that wait, by id; `stored` collects what was sent."""

    waiting: set[int]
    stored: list[int] = field(default_factory=list)
    refusals: int = 0

    def pending_task(self, project_id, version, task_id):
        tasks = (a_task(task_id),) if task_id in self.waiting else ()
        return PendingTasks(tasks, SCHEMA, len(tasks))

    def send(self, task, result):
        if self.refusals:
            self.refusals -= 1
            raise LabelStudioError("not now")
        self.stored.append(task.id)
        self.waiting.discard(task.id)


@dataclass
class Service:
    problem: Problem | None = None
    asked: list[int] = field(default_factory=list)

    def current(self, project_id):
        return None

    def announced(self, version):
        return "base-1"

    def predict_ahead(self, task, schema, version):
        self.asked.append(task.id)
        return PredictionResult(b"[]", 0.5, "base-1", self.problem)


@pytest.fixture
def store(database_url):  # noqa: F811
    opened = open_store(database_url, commit_timeout_s=30)
    yield opened
    opened.close()


@pytest.fixture
def start(store, monkeypatch):
    monkeypatch.setattr("backend.serving.owed_answers._GRACE_US", 0)

    def make(studio, service, leads=lambda: True):
        return OwedAnswerWorker(store, "me/1/x", service, studio, studio.send, leads=leads)

    return make


def rows(store):
    store.write(lambda _: None, timeout_s=30)  # what was queued before is done
    query = select(owed_answer.c.task_id, owed_answer.c.owner).order_by(owed_answer.c.task_id)
    with store.read() as connection:
        return [tuple(row) for row in connection.execute(query)]


def test_a_promise_is_written_down_and_settled(store):
    owed = OwedAnswers(store, "me/1/x")
    owed.owe([a_task(1), a_task(2), a_task(2)])
    assert rows(store) == [(1, "me/1/x"), (2, "me/1/x")]
    owed.settle(a_task(1))
    owed.end(a_task(2), True)
    assert rows(store) == []


def test_what_was_sent_before_it_was_written_down_is_not_written_down(store):
    owed = OwedAnswers(store, "me/1/x")
    owed.settle(a_task(1))
    owed.owe([a_task(1), a_task(2)])
    assert rows(store) == [(2, "me/1/x")]
    owed.owe([a_task(1)])  # asked for again
    assert rows(store) == [(1, "me/1/x"), (2, "me/1/x")]


def test_a_task_that_another_server_owes_stays_that_servers(store):
    first, second = OwedAnswers(store, "a/1/x"), OwedAnswers(store, "b/1/y")
    first.owe([a_task(1)])
    second.owe([a_task(1), a_task(2)])
    assert (first.is_ours(a_task(1)), second.is_ours(a_task(1))) == (True, False)
    assert second.is_ours(a_task(2))
    second.settle(a_task(1))
    assert rows(store) == [(1, "a/1/x"), (2, "b/1/y")]
    assert second.is_ours(a_task(1))


def test_promises_of_the_dead_are_kept_once(store, start):
    OwedAnswers(store, DEAD).owe([a_task(1), a_task(2), a_task(3)])
    studio, service = Studio({1, 3}), Service()  # 2 was sent just before the end
    worker = start(studio, service)
    assert worker.round() == 2
    assert worker.round() == 0
    assert studio.stored == service.asked == [1, 3]
    assert rows(store) == []


def test_promises_of_this_server_are_left_to_it(store, start):
    OwedAnswers(store, "me/1/x").owe([a_task(1)])
    assert start(Studio({1}), Service()).round() == 0
    assert rows(store) == [(1, "me/1/x")]


def test_a_server_that_does_not_lead_sends_nothing(store, start):
    OwedAnswers(store, DEAD).owe([a_task(1)])
    studio = Studio({1})
    assert start(studio, Service(), leads=lambda: False).round() == 0
    assert studio.stored == []
    assert len(rows(store)) == 1


def test_what_could_not_be_sent_is_tried_again_a_few_times(store, start):
    owed, studio = OwedAnswers(store, "me/1/x"), Studio({1}, refusals=1)
    owed.owe([a_task(1)])
    owed.end(a_task(1), False)
    assert rows(store) == [(1, "")]
    worker = start(studio, Service())
    assert worker.round() == 0
    assert worker.round() == 1
    assert studio.stored == [1]

    OwedAnswers(store, DEAD).owe([a_task(2)])
    worker = start(Studio({2}, refusals=100), Service())
    for _ in range(5):
        assert len(rows(store)) == 1
        worker.round()
    assert rows(store) == []


def test_a_task_that_can_never_be_predicted_is_forgotten(store, start):
    OwedAnswers(store, DEAD).owe([a_task(1)])
    studio = Studio({1})
    assert start(studio, Service(Problem("MediaError", "gone", True))).round() == 0
    assert (studio.stored, rows(store)) == ([], [])
