"""Bodies nobody derives from any more go a month after they came; everything else stays."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from backend.storage.store import open_store
from backend.storage.tables import event_log
from backend.storage.upkeep import Chores, OldBodies
from backend.types import Event, EventAction

PROJECT = 7
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def change(annotation_id, second, *, start=LONG_AGO):
    text = f"{annotation_id}/{second}/{start}"
    return Event(
        key=hashlib.sha256(text.encode()).hexdigest(),
        action=EventAction.ANNOTATION_UPDATED,
        project_id=PROJECT,
        annotation_id=annotation_id,
        task_id=1,
        updated_at=start + timedelta(seconds=second),
        payload=b"x" * 1000,
    )


@pytest.fixture
def store(tmp_path):
    opened = open_store(f"sqlite:///{tmp_path / 'a.sqlite3'}", commit_timeout_s=30)
    yield opened
    opened.close()


def bodies(store):
    return {
        (one.event.annotation_id, one.event.updated_at): len(one.event.payload)
        for one in store.events(PROJECT)
    }


def receive_long_ago(store):
    """Makes everything so far two months old."""
    moved = update(event_log).values(
        received_at_us=event_log.c.received_at_us - 60 * 86_400 * 10**6
    )
    store.write(lambda connection: connection.execute(moved).close(), timeout_s=10)


def tidy(store, upkeep):
    while upkeep.is_due:
        store.write(upkeep.prune, timeout_s=10)


def test_old_bodies_go_unless_they_are_the_newest_state(store):
    now = datetime.now(UTC)
    events = [change(1, second) for second in range(3)] + [change(2, 0)]
    events += [change(3, second, start=now) for second in range(2)]
    wish = Event(key="f" * 64, action=EventAction.TASKS_DELETED, project_id=PROJECT, payload=b"{}")
    store.record_events([*events[:4], wish])
    receive_long_ago(store)
    store.record_events(events[4:])
    tidy(store, OldBodies(clock=lambda: 0.0))
    kept = bodies(store)
    assert [kept[1, event.updated_at] for event in events[:3]] == [0, 0, 1000]
    assert [kept[event.annotation_id, event.updated_at] for event in events[3:]] == [1000] * 3
    assert kept[None, None] == 2


def test_an_emptied_event_that_is_delivered_again_changes_nothing(store):
    events = [change(1, second) for second in range(3)]
    store.record_events(events)
    heads = store.heads(PROJECT)
    receive_long_ago(store)
    tidy(store, OldBodies(clock=lambda: 0.0))
    assert store.record_events(events) == 0
    assert store.heads(PROJECT) == heads
    assert sorted(bodies(store).values()) == [0, 0, 1000]


def test_many_are_emptied_in_steps_and_looked_for_again_an_hour_later(store):
    store.record_events([change(1, second) for second in range(450)])
    receive_long_ago(store)
    moment = [0.0]
    upkeep = OldBodies(clock=lambda: moment[0])
    steps = 0
    while upkeep.is_due:
        store.write(upkeep.prune, timeout_s=10)
        steps += 1
        moment[0] += 0.1
    assert steps in (2, 3)  # the store's own upkeep may have taken one
    assert sum(bodies(store).values()) == 1000
    moment[0] = 3601.0
    assert upkeep.is_due


def test_a_deleted_annotation_keeps_no_body(store):
    gone = replace(
        change(1, 9), action=EventAction.ANNOTATIONS_DELETED, updated_at=None, is_deletion=True,
        payload=b"",
    )  # fmt: skip
    store.record_events([change(1, 0), replace(gone, key="e" * 64)])
    receive_long_ago(store)
    tidy(store, OldBodies(clock=lambda: 0.0))
    assert sum(bodies(store).values()) == 0


class Chore:
    def __init__(self, steps):
        self.steps = steps

    @property
    def is_due(self):
        return self.steps > 0

    def prune(self, connection):
        self.steps -= 1


def test_chores_are_done_one_after_another():
    first, second = Chore(2), Chore(1)
    chores = Chores(first, second)
    seen = []
    while chores.is_due:
        chores.prune(None)
        seen.append((first.steps, second.steps))
    assert seen == [(1, 1), (0, 1), (0, 0)]
