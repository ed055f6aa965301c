"""Versions that are followed by better ones by themselves, until something new is due."""

from __future__ import annotations

import threading

import pytest

from backend.learning import session, worker
from backend.learning.overview import Overview
from backend.learning.schedule import Cause, RunState
from tests.unit.learning.databases import database_url, postgres_server  # noqa: F401
from tests.unit.learning.school import PROJECT, TRAINED, School


@pytest.fixture
def rising(tmp_path, database_url):  # noqa: F811
    """A school whose versions may be followed by better ones."""
    made = School(tmp_path, url=database_url, refinements=3)
    yield made
    made.store.close()


def test_a_version_is_followed_by_better_ones_by_itself(rising):
    rising.updater.better = 1
    rising.correct(*TRAINED[:3])
    assert [rising.train() for _ in range(5)] == [1, 1, 1, 1, 0]
    first, *better = reversed(rising.runs.runs(PROJECT))
    assert (first.cause, first.state) == (Cause.COUNT, RunState.PUBLISHED)
    assert {(one.cause, one.state) for one in better} == {(Cause.REFINE, RunState.PUBLISHED)}
    # It goes on from the last one, with all corrections, for a time of its own.
    assert rising.updater.updates[1:] == [((), tuple(TRAINED[:3]), True)] * 3
    assert rising.updater.seconds == [None, *[session.REFINE_S] * 3]
    assert rising.current.corrections == 3
    assert rising.current.upto_seq == rising.versions.find(first.adapter_id).upto_seq
    assert rising.current.gate["earlier"]["mIoU"] == [65, 70]


def test_a_refinement_without_gain_is_not_published_and_ends_it(rising):
    rising.correct(*TRAINED[:3])
    assert [rising.train() for _ in range(3)] == [1, 1, 0]
    assert (rising.last.cause, rising.last.state) == (Cause.REFINE, RunState.REJECTED)
    assert "no better than the current version" in (
        rising.versions.find(rising.last.adapter_id).reason
    )
    assert rising.current.corrections == 3
    rising.correct(*TRAINED[3:6])
    assert rising.train() == 1
    assert (rising.last.cause, rising.last.state) == (Cause.COUNT, RunState.PUBLISHED)


@pytest.mark.parametrize("news", ["corrections", "button", "request"])
def test_a_refinement_gives_way_to_whatever_is_due(rising, monkeypatch, news):
    monkeypatch.setattr(worker, "_POLL_S", 0.0)
    rising.correct(*TRAINED[:3])
    assert rising.train() == 1
    rising.updater.is_learning.clear()
    rising.updater.gate.clear()
    thread = threading.Thread(target=rising.train)
    thread.start()
    assert rising.updater.is_learning.wait(20)
    if news == "corrections":
        rising.correct(*TRAINED[3:6], project=8)  # of any project
    else:
        rising.correct(TRAINED[3])
    if news == "button":
        rising.press_button()
    elif news == "request":
        rising.runs.request(PROJECT)
    thread.join(20)
    assert not thread.is_alive()
    assert (rising.last.cause, rising.last.state) == (Cause.REFINE, RunState.STOPPED)
    rising.updater.gate.set()
    assert rising.train() >= 1
    newest = rising.runs.runs(8 if news == "corrections" else PROJECT)[0]
    assert (newest.state, newest.cause) == (
        RunState.PUBLISHED,
        {"corrections": Cause.COUNT, "button": Cause.BUTTON, "request": Cause.REQUEST}[news],
    )


def test_a_refinement_that_was_stopped_may_be_tried_again(rising):
    rising.correct(*TRAINED[:3])
    rising.train()
    healthy = rising.updater.update
    rising.updater.update = lambda *_given, **_options: None
    assert rising.train() == 1
    assert (rising.last.cause, rising.last.state) == (Cause.REFINE, RunState.STOPPED)
    rising.updater.update = healthy
    assert rising.train() == 1
    assert rising.last.cause is Cause.REFINE


def test_what_learns_something_new_gives_way_to_nothing(rising, monkeypatch):
    monkeypatch.setattr(worker, "_POLL_S", 0.0)
    rising.correct(*TRAINED[:3])
    rising.updater.gate.clear()
    thread = threading.Thread(target=rising.train)
    thread.start()
    assert rising.updater.is_learning.wait(20)
    rising.correct(TRAINED[3])
    rising.runs.request(PROJECT)
    rising.updater.gate.set()
    thread.join(20)
    assert (rising.last.cause, rising.last.state) == (Cause.COUNT, RunState.PUBLISHED)


def test_an_overview_says_whether_a_better_version_may_follow(rising):
    overview = Overview(rising.store, rising.versions)
    rising.correct(*TRAINED[:3])
    rising.trainer.round(rising.stop)
    assert overview.standing(PROJECT).is_rising
    rising.train()
    assert not overview.standing(PROJECT).is_rising
