"""The store: what was acknowledged is there, repeated and shuffled deliveries end up the same."""

from __future__ import annotations

import hashlib
import signal
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine

from backend.errors import BusyError, StoreError
from backend.storage.database import open_engines
from backend.storage.schema import MIGRATIONS
from backend.storage.store import open_store
from backend.storage.tables import metadata
from backend.types import Event, EventAction

START = datetime(2026, 1, 1, tzinfo=UTC)


def an_event(annotation_id=1, *, second=0, project_id=7, deleted=False, payload=b"{}", salt=""):
    action = EventAction.ANNOTATIONS_DELETED if deleted else EventAction.ANNOTATION_UPDATED
    text = f"{action}{project_id}/{annotation_id}/{second}/{salt}"
    return Event(
        key=hashlib.sha256(text.encode()).hexdigest(),
        action=action,
        project_id=project_id,
        annotation_id=annotation_id,
        task_id=3,
        updated_at=None if deleted else START + timedelta(seconds=second),
        is_deletion=deleted,
        payload=payload,
    )


@pytest.fixture
def store(tmp_path):
    opened = open_store(f"sqlite:///{tmp_path / 'kept' / 'calico.sqlite3'}", commit_timeout_s=30)
    yield opened
    opened.close()


def test_every_connection_flushes_to_disk_and_only_the_writer_checkpoints(tmp_path):
    engines = open_engines(f"sqlite:///{tmp_path / 'a.sqlite3'}")
    for engine, pages in zip(engines, (1000, 0), strict=True):
        engine.dispose()  # so that connections are new, as after an error
        with engine.connect() as first, engine.connect() if pages == 0 else first as second:
            for connection in (first, second):
                ask = connection.exec_driver_sql
                assert ask("PRAGMA synchronous").scalar_one() == 2  # FULL
                assert ask("PRAGMA journal_mode").scalar_one() == "wal"
                assert ask("PRAGMA wal_autocheckpoint").scalar_one() == pages
        engine.dispose()


def test_an_event_comes_back_as_it_was_recorded(store):
    event = an_event(payload=b'{"annotation": 1}')
    assert store.record_events([event]) == 1
    (stored,) = store.events(7)
    assert stored.event == event
    assert abs(datetime.now(UTC) - stored.received_at) < timedelta(minutes=1)


def test_a_repeated_delivery_changes_nothing(store):
    event = an_event()
    assert store.record_events([event, event]) == 1
    assert store.record_events([event]) == 0
    assert len(store.events(7)) == 1
    assert len(store.heads(7)) == 1


def test_events_are_read_on_from_a_position(store):
    store.record_events([an_event(index) for index in range(5)])
    first = store.events(7, limit=2)
    rest = store.events(7, after_seq=first[-1].seq)
    assert [one.event.annotation_id for one in first + rest] == [0, 1, 2, 3, 4]
    assert store.events(8) == ()


def test_the_newest_state_wins_whatever_arrives_last(store):
    store.record_events([an_event(second=5), an_event(second=3)])
    assert [head.key for head in store.heads(7)] == [an_event(second=5).key]


def test_a_deletion_is_final(store):
    store.record_events([an_event(deleted=True), an_event(second=999)])
    (head,) = store.heads(7)
    assert head.is_deleted


def test_pressing_the_training_button_again_is_seen(store):
    press = Event(key="a" * 64, action=EventAction.START_TRAINING, project_id=7)
    store.record_events([press])
    first = store.events(7)[0].received_at
    store.record_events([press])
    (again,) = store.events(7)
    assert again.received_at > first


def test_a_project_that_returns_to_an_earlier_state_is_seen(store):
    first, second = (
        Event(key=letter * 64, action=EventAction.PROJECT_UPDATED, project_id=7) for letter in "ab"
    )
    for state in (first, second, first):
        store.record_events([state])
    newest = max(store.events(7), key=lambda one: one.received_at)
    assert newest.event.key == first.key


HISTORY = [an_event(number, second=second) for number in (1, 2) for second in (0, 1, 2)] + [
    an_event(1, second=2, salt="same time"),
    an_event(2, deleted=True),
]


@pytest.fixture(scope="module")
def heads_in_order(tmp_path_factory):
    return heads_after(HISTORY, tmp_path_factory.mktemp("order"))


@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(order=st.lists(st.sampled_from(HISTORY), min_size=0, max_size=12))
def test_heads_do_not_depend_on_the_order_of_arrival(tmp_path_factory, heads_in_order, order):
    shuffled = [*order, *HISTORY]
    for deliveries in (shuffled, list(reversed(shuffled))):
        assert heads_after(deliveries, tmp_path_factory.mktemp("order")) == heads_in_order


def heads_after(deliveries, folder):
    """Heads of a new store that was sent events one after the other."""
    store = open_store(f"sqlite:///{folder / 'a.sqlite3'}", commit_timeout_s=30)
    for event in deliveries:
        store.record_events([event])
    heads = store.heads(7)
    store.close()
    return heads


def keep(store, numbers, body=b"x"):
    for number in numbers:
        store.keep_prediction(f"{number}", body, project_id=1, task_id=number, version="v")
        # Waits for the commit, and makes the writer take at least one step of its clean-up.
        store.record_events([an_event(number)])


def found(store, numbers):
    return [number for number in numbers if store.find_prediction(f"{number}") is not None]


def test_kept_answers_are_found_again_and_the_newest_stay(tmp_path):
    store = open_store(
        f"sqlite:///{tmp_path / 'a.sqlite3'}", cached_predictions=10, commit_timeout_s=30
    )
    keep(store, range(100))
    kept = found(store, range(100))
    assert kept == list(range(100 - len(kept), 100))
    assert 5 <= len(kept) <= 12  # the last step may still be under way
    store.close()


def test_kept_answers_are_bounded_in_bytes(tmp_path):
    store = open_store(
        f"sqlite:///{tmp_path / 'a.sqlite3'}", cached_prediction_bytes=10_000, commit_timeout_s=30
    )
    keep(store, range(60), body=bytes(1000))
    kept = found(store, range(60))
    assert kept == list(range(60 - len(kept), 60))
    assert 5 <= len(kept) <= 12
    store.keep_prediction("huge", bytes(10_001), project_id=1, task_id=1, version="v")
    keep(store, [60])
    assert store.find_prediction("huge") is None
    store.close()


def test_answers_kept_before_a_restart_count(tmp_path):
    url = f"sqlite:///{tmp_path / 'a.sqlite3'}"
    before = open_store(url, commit_timeout_s=30)
    keep(before, range(40))
    before.close()
    store = open_store(url, cached_predictions=10, commit_timeout_s=30)
    keep(store, [40])
    for number in range(100, 110):
        store.record_events([an_event(number)])
    assert len(found(store, range(41))) <= 10
    store.close()


def test_a_full_queue_is_said_at_once(tmp_path):
    store = open_store(f"sqlite:///{tmp_path / 'a.sqlite3'}", queue_size=1)
    other = sqlite3.connect(tmp_path / "a.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    refused = []

    def post(number):
        try:
            store.record_events([an_event(number)])
        except BusyError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=post, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.execute("ROLLBACK")
    assert any("already wait" in message for message in refused)
    store.close()


def test_a_slow_commit_is_said_in_time_and_may_be_sent_again(tmp_path):
    store = open_store(f"sqlite:///{tmp_path / 'a.sqlite3'}", commit_timeout_s=0.05)
    other = sqlite3.connect(tmp_path / "a.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BusyError, match=r"longer than 0\.05 s"):
        store.record_events([an_event()])
    other.execute("ROLLBACK")
    other.close()
    store.close()
    again = open_store(f"sqlite:///{tmp_path / 'a.sqlite3'}", commit_timeout_s=30)
    again.record_events([an_event()])
    assert len(again.events(7)) == 1
    again.close()


def test_one_refused_change_leaves_its_neighbours_alone(store):
    bad = Event(key="b" * 64, action=EventAction.OTHER, project_id=None)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="IntegrityError"):
        store.record_events([bad])
    assert store.record_events([an_event()]) == 1


def test_a_damaged_file_is_refused_with_its_name(tmp_path):
    path = tmp_path / "calico.sqlite3"
    path.write_bytes(b"not a database, for sure" * 100)
    with pytest.raises(StoreError, match=r"calico\.sqlite3"):
        open_store(f"sqlite:///{path}")


def test_an_unreadable_url_is_refused():
    with pytest.raises(StoreError, match="database_url"):
        open_store("calico.db")


def test_a_backup_holds_everything_and_never_overwrites(store, tmp_path):
    store.record_events([an_event(number) for number in range(20)])
    store.backup(tmp_path / "copy.sqlite3")
    copy = open_store(f"sqlite:///{tmp_path / 'copy.sqlite3'}")
    assert copy.heads(7) == store.heads(7)
    copy.close()
    with pytest.raises(StoreError, match="exists"):
        store.backup(tmp_path / "copy.sqlite3")


def test_the_data_folder_belongs_to_its_user_alone(store, tmp_path):
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700


def test_a_closed_store_says_so(tmp_path):
    store = open_store(f"sqlite:///{tmp_path / 'a.sqlite3'}")
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.record_events([an_event()])


def test_migrations_make_exactly_the_declared_tables_and_go_back(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path / 'a.sqlite3'}")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        command.downgrade(config, "base")
        left = connection.exec_driver_sql(
            "SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
        ).scalars()
        assert list(left) == ["alembic_version"]
    engine.dispose()


WRITER = """
import sys
from tests.unit.storage.test_store import an_event
from backend.storage.store import open_store
store = open_store(sys.argv[1])
for number in range(int(sys.argv[2]), 10**9):
    store.record_events([an_event(number, payload=b"x" * 20_000)])
    print(number, flush=True)
"""


def test_acknowledged_events_survive_kill_9(tmp_path):
    url = f"sqlite:///{tmp_path / 'calico.sqlite3'}"
    acknowledged = set()
    for round_number in range(5):
        first = round_number * 100_000
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, url, str(first)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        with process:
            for _ in range(20 + 7 * round_number):
                acknowledged.add(int(process.stdout.readline()))
            process.send_signal(signal.SIGKILL)
            acknowledged.update(int(line) for line in process.stdout if line.endswith("\n"))
    store = open_store(url)
    kept = {head.annotation_id for head in store.heads(7)}
    store.close()
    assert len(acknowledged) >= 5 * 20
    assert acknowledged <= kept


def test_versions_that_served_are_listed_newest_first(store, tmp_path):
    with sqlite3.connect(tmp_path / "kept" / "calico.sqlite3") as other:
        other.executemany(
            "INSERT INTO adapter (id, project_id, uri, sha256, nbytes, status, upto_seq,"
            " base_sha256, code_version, created_at_us)"
            " VALUES (?, 1, 'u', 's', 1, ?, 0, 'b', 'c', ?)",
            [("v1", "retired", 1), ("v2", "current", 2), ("v3", "rejected", 3)],
        )
    other.close()
    assert store.versions() == ("v2", "v1")
