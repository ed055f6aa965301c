"""Work ahead of clicks: the opened task, then the next ones, under a ceiling, out of the way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from backend.errors import LabelStudioError, MediaUnavailableError
from backend.serving.prewarming import Prewarmer
from backend.types import Task


def task(number, **changes):
    given = {"project_id": 1, "image_urls": (f"/data/{number}.png",)} | changes
    return Task(id=number, **given)


@dataclass
class Service:
    """Notes what is encoded; every task has 100 bytes of pixels."""

    is_quiet: bool = True
    broken: tuple[int, ...] = ()
    warmed: list[int] = field(default_factory=list)
    foreseen: list[int] = field(default_factory=list)
    images: int = 2
    by_sources: list[tuple[int, int]] = field(default_factory=list)
    on_source: Callable[[int, int], None] = lambda _task, _number: None
    changed: threading.Condition = field(default_factory=threading.Condition)
    looked: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    @property
    def quiet_s(self):
        self.looked.release()
        return 10.0 if self.is_quiet else 0.0

    def wait_for_looks(self, count):
        """Waits until it was asked that often whether anybody waits."""
        assert all(self.looked.acquire(timeout=10) for _ in range(count))

    def encode_ahead(self, one, step_aside):
        step_aside()
        if one.id in self.broken:
            raise MediaUnavailableError("gone")
        with self.changed:
            self.warmed.append(one.id)
            self.changed.notify_all()
        return 100

    def predict_ahead(self, one, step_aside):
        step_aside()
        assert self.warmed[-1] == one.id
        self.foreseen.append(one.id)

    def encode_with_sources(self, one, step_aside):
        assert self.foreseen[-1] == one.id
        for number in range(self.images):
            step_aside()
            self.by_sources.append((one.id, number))
            self.on_source(one.id, number)

    def wait_for(self, *ids):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.warmed) >= len(ids), 10)
        assert self.warmed[: len(ids)] == list(ids)


@pytest.fixture
def prewarm():
    started = []

    def start(service, upcoming=None, *, max_bytes=250):
        started.append(Prewarmer(service, service, upcoming, max_bytes=max_bytes))
        return started[-1]

    yield start
    for one in started:
        one.close()
        one._thread.join(10)
        assert not one._thread.is_alive()


def following(project_id, task_id):
    assert project_id == 1
    return [task(number) for number in range(task_id + 1, task_id + 9)]


def test_the_opened_task_comes_first_and_the_next_up_to_the_ceiling(prewarm):
    service = Service()
    prewarmer = prewarm(service, following)
    prewarmer.open(task(5))
    service.wait_for(5, 6, 7, 8)  # 100, 200, 300 bytes ahead: the third passes 250
    assert service.foreseen == [5]  # clicks come on what is open
    prewarmer.open(task(50))
    service.wait_for(5, 6, 7, 8, 50)


def test_a_ceiling_of_nothing_prefetches_nothing(prewarm):
    service = Service()
    prewarmer = prewarm(service, following, max_bytes=0)
    prewarmer.open(task(5))
    prewarmer.open(task(50))
    service.wait_for(5, 50)


def test_nothing_is_encoded_while_somebody_waits(prewarm):
    service = Service(is_quiet=False)
    prewarm(service).open(task(1))
    service.wait_for_looks(4)
    assert service.warmed == []
    service.is_quiet = True
    service.wait_for(1)


def test_another_opened_task_comes_before_upcoming_ones(prewarm):
    service = Service(is_quiet=False)
    prewarmer = prewarm(service, following, max_bytes=10_000)
    prewarmer.open(task(1))
    prewarmer.open(task(40))
    service.is_quiet = True
    service.wait_for(1, 40, 41)


def test_what_cannot_be_had_does_not_stop_the_rest(prewarm):
    def fail(project_id, task_id):
        raise LabelStudioError("down")

    service = Service(broken=(1,))
    prewarmer = prewarm(service, fail)
    for one in (task(1), task(2, problem="no images"), task(3, project_id=None), task(4)):
        prewarmer.open(one)
    service.wait_for(3, 4)


def test_closing_ends_a_wait(prewarm):
    service = Service(is_quiet=False)
    prewarmer = prewarm(service)
    prewarmer.open(task(1))
    service.wait_for_looks(2)
    prewarmer.close()
    prewarmer._thread.join(10)
    assert not prewarmer._thread.is_alive()
    assert service.warmed == []


def test_sources_encode_the_opened_task_last_and_stop_when_another_is_opened(prewarm):
    service = Service()
    warmer = prewarm(service)

    def open_another(task_id, number):
        if (task_id, number) == (1, 0):
            warmer.open(task(7))

    service.on_source = open_another
    warmer.open(task(1))
    service.wait_for(1, 7)
    warmer.close()
    warmer._thread.join(10)
    assert (1, 0) in service.by_sources
    assert (1, 1) not in service.by_sources


def test_upcoming_tasks_are_not_encoded_by_sources(prewarm):
    service = Service()
    prewarm(service, following).open(task(1))
    service.wait_for(1, 2, 3)
    assert {task_id for task_id, _ in service.by_sources} == {1}
