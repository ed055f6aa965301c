"""Tasks that are asked for together are counted, and why some failed is remembered."""

from __future__ import annotations

from backend.serving import batch_progress
from backend.serving.batch_progress import BatchProgress
from backend.serving.jobs import Problem
from backend.types import FailedTask

PROJECT = 7
BROKEN = Problem("UnreadableMediaError", "task.data.images[0]: not an image", is_lasting=True)


def counts(progress):
    status = progress.status(PROJECT)
    return status.total, status.done, status.waiting, status.failed


def test_tasks_are_counted_until_none_waits():
    progress = BatchProgress()
    assert progress.status(PROJECT) is None
    progress.begin(PROJECT, [1, 2, 3])
    progress.settle(PROJECT, 1, None)
    progress.settle(PROJECT, 2, BROKEN)
    assert counts(progress) == (3, 1, 1, 1)
    assert progress.status(PROJECT).ended_us is None
    progress.settle(PROJECT, 3, None)
    status = progress.status(PROJECT)
    assert counts(progress) == (3, 2, 0, 1)
    assert status.ended_us is not None
    assert status.problems == (FailedTask(2, BROKEN.error, BROKEN.detail),)


def test_a_task_that_is_asked_for_again_counts_once_and_loses_its_problem():
    progress = BatchProgress()
    progress.begin(PROJECT, [1, 2])
    progress.settle(PROJECT, 1, BROKEN)
    progress.begin(PROJECT, [1])
    assert counts(progress) == (2, 0, 2, 0)
    progress.settle(PROJECT, 1, None)
    assert counts(progress) == (2, 1, 1, 0)


def test_later_tasks_are_a_batch_of_their_own(monkeypatch):
    progress = BatchProgress()
    progress.begin(PROJECT, [1])
    progress.settle(PROJECT, 1, None)
    progress.begin(PROJECT, [2])  # a command goes on
    assert counts(progress) == (2, 1, 1, 0)
    progress.settle(PROJECT, 2, None)
    later = batch_progress.now_us() + 60_000_000
    monkeypatch.setattr(batch_progress, "now_us", lambda: later)
    progress.begin(PROJECT, [3])
    assert counts(progress) == (1, 0, 1, 0)


def test_tasks_without_a_place_are_not_counted():
    progress = BatchProgress()
    progress.begin(PROJECT, [1, 2])
    progress.drop(PROJECT, [2])
    progress.settle(PROJECT, 2, None)
    progress.settle(PROJECT, 9, None)
    assert counts(progress) == (1, 0, 1, 0)
