"""A task that got one version twice is looked at once Label Studio has stored both."""

from __future__ import annotations

import pytest

from backend.errors import LabelStudioError
from backend.serving.duplicates import DuplicateWatch
from backend.types import Task

TASK = Task(id=3, project_id=7, image_urls=("a",))
OTHER = Task(id=4, project_id=7, image_urls=("a",))


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def looked():
    return []


@pytest.fixture
def watch(clock, looked):
    def delete(project_id, task_id):
        looked.append((project_id, task_id))
        return 1

    return DuplicateWatch(delete, after_s=10, opened_after_s=100, clock=clock)


def test_only_what_was_given_twice_is_looked_at(watch, clock, looked):
    for task, version in ((TASK, "v1"), (OTHER, "v1"), (TASK, "v2"), (OTHER, "v1")):
        watch.given(task, version)
    assert watch.look() == 10
    clock.now = 10
    assert watch.look() is None
    assert looked == [(7, 4)]


def test_a_task_that_was_just_opened_is_left_alone_for_longer(watch, clock, looked):
    watch.opened(TASK)
    watch.given(TASK, "v1")
    watch.given(TASK, "v1")
    clock.now = 50
    assert watch.look() == 50
    assert looked == []
    clock.now = 100
    assert watch.look() is None
    assert looked == [(7, 3)]


def test_a_task_given_many_times_is_looked_at_once(watch, clock, looked):
    for _ in range(5):
        watch.given(TASK, "v1")
    clock.now = 10
    watch.look()
    assert looked == [(7, 3)]


def test_a_studio_that_is_away_stops_nothing(clock, looked):
    def delete(project_id, task_id):
        if not looked:
            looked.append("refused")
            raise LabelStudioError("away")
        looked.append(task_id)
        return 0

    watch = DuplicateWatch(delete, after_s=1, clock=clock)
    for task in (TASK, OTHER):
        watch.given(task, "v1")
        watch.given(task, "v1")
    clock.now = 1
    assert watch.look() is None
    assert looked == ["refused", 4]


def test_a_preview_without_a_task_is_not_remembered(watch):
    preview = Task(id=None, project_id=7, image_urls=("a",))
    watch.given(preview, "v1")
    watch.given(preview, "v1")
    assert watch.look() is None
