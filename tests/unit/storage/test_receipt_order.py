"""No clock but the order of receipt says which state of an annotation is the newest."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from backend.storage.store import open_store
from backend.storage.tables import ann_head, event_log
from backend.storage.upkeep import OldBodies
from backend.types import Event, EventAction
from tests.unit.learning.databases import database_url, postgres_server  # noqa: F401

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NEVER = datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def store(database_url):  # noqa: F811
    opened = open_store(database_url, commit_timeout_s=30)
    yield opened
    opened.close()


def state(moment, *, annotation=1, action=EventAction.ANNOTATION_UPDATED, said=""):
    return Event(
        key=hashlib.sha256(f"{action}{annotation}{moment}{said}".encode()).hexdigest(),
        action=action,
        project_id=7,
        annotation_id=annotation,
        task_id=3,
        updated_at=moment,
        payload=b"{}",
    )


def creation(moment, **options):
    return state(moment, action=EventAction.ANNOTATION_CREATED, **options)


def deletion(annotation=1):
    return Event(
        key=hashlib.sha256(f"gone {annotation}".encode()).hexdigest(),
        action=EventAction.ANNOTATIONS_DELETED,
        project_id=7,
        annotation_id=annotation,
        is_deletion=True,
    )


def tell(store, *events):
    return [store.record_events([event]) for event in events]


def newest(store):
    (head,) = store.heads(7)
    return head


def pass_time(store, seconds=3600):
    """Makes everything so far older."""

    def change(connection):
        for table, column in ((ann_head, "received_us"), (event_log, "received_at_us")):
            moved = table.c[column] - seconds * 10**6
            connection.execute(update(table).values({column: moved}))

    store.write(change, timeout_s=30)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (NEVER, NOW),
        (NOW, NOW - HOUR),
        (NOW, NOW - timedelta(days=400)),
        (NOW, datetime(1970, 1, 1, tzinfo=UTC)),
        (NOW + 9 * HOUR, NOW),  # a clock that was in the wrong time zone
        (NOW, NOW - timedelta(seconds=20)),
        (NOW, None),
    ],
)
def test_what_is_received_later_counts_whatever_its_stamp(store, first, second):
    assert tell(store, state(first), state(second)) == [1, 1]
    assert newest(store).key == state(second).key


def test_every_state_after_one_stamped_far_ahead_counts(store):
    states = [state(NOW + timedelta(seconds=number)) for number in range(5)]
    tell(store, state(NEVER))
    for one in states:
        tell(store, one)
        assert newest(store).key == one.key


def test_a_second_step_back_loses_nothing_either(store):
    for hours in (3, 2, 1):
        tell(store, state(NOW + hours * HOUR))
    assert newest(store).key == state(NOW + HOUR).key


def test_a_small_step_back_counts_once_no_delivery_can_be_that_late(store):
    tell(store, state(NOW))
    pass_time(store, 10)
    tell(store, state(NOW - timedelta(seconds=1)))
    assert newest(store).key == state(NOW - timedelta(seconds=1)).key


def test_deliveries_that_overtake_each_other_are_put_in_order(store):
    later, sooner = state(NOW + timedelta(seconds=1)), state(NOW)
    tell(store, later, sooner)
    assert newest(store).key == later.key


def test_a_known_state_delivered_again_changes_nothing(store):
    old, new = state(NOW), state(NOW - HOUR)
    tell(store, old, new)
    pass_time(store)
    assert tell(store, old, new, old) == [0, 0, 0]
    assert newest(store).key == new.key


def test_a_stamp_far_ahead_is_told(store, caplog):
    tell(store, state(NEVER), state(NOW, annotation=2))
    told = [record for record in caplog.records if record.event == "stamp_ahead"]
    assert len(told) == 1
    assert "annotation 1 of project 7" in told[0].getMessage()


@pytest.mark.parametrize("seconds", [0, 3600])
def test_an_id_that_is_used_again_after_a_deletion_counts(store, seconds):
    tell(store, creation(NOW), deletion())
    pass_time(store, seconds)
    again = creation(NOW + timedelta(seconds=30))
    assert tell(store, again) == [1]
    assert (newest(store).key, newest(store).is_deleted) == (again.key, False)


def test_an_id_may_be_deleted_as_often_as_it_is_used(store):
    for number in range(3):
        tell(store, creation(NOW + timedelta(minutes=number)))
        assert not newest(store).is_deleted
        assert tell(store, deletion()) == [1]
        assert newest(store).is_deleted
        assert tell(store, deletion()) == [0]


def test_an_update_long_after_a_deletion_says_that_it_was_none(store):
    tell(store, creation(NOW), deletion())
    pass_time(store)
    tell(store, state(NOW - HOUR))
    assert not newest(store).is_deleted


def test_what_is_overtaken_by_a_deletion_stays_deleted(store):
    tell(store, creation(NOW), deletion(), state(NOW + timedelta(seconds=1)))
    assert newest(store).is_deleted
    tell(store, deletion(2), creation(NOW, annotation=2))
    assert all(head.is_deleted for head in store.heads(7))


def test_bodies_are_kept_by_when_they_came_not_by_their_stamps(store):
    long_ago, ahead = datetime(1970, 1, 1, tzinfo=UTC), NEVER
    tell(store, state(ahead), state(long_ago), state(NOW))
    upkeep = OldBodies(clock=lambda: 0.0)
    while upkeep.is_due:
        store.write(upkeep.prune, timeout_s=30)
    assert [len(one.event.payload) for one in store.events(7)] == [2, 2, 2]
    pass_time(store, 31 * 86_400)
    upkeep = OldBodies(clock=lambda: 0.0)
    while upkeep.is_due:
        store.write(upkeep.prune, timeout_s=30)
    assert [len(one.event.payload) for one in store.events(7)] == [0, 0, 2]
