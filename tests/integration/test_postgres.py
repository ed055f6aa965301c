"""The store on PostgreSQL: the same promises.

Uses the empty database of TEST_POSTGRES_URL (postgresql+psycopg://user@host/name), else a server
made for these tests from the installed binaries (Debian: postgresql). Run with -m slow.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text
from sqlalchemy.dialects import postgresql

from backend.errors import StoreError
from backend.storage.database import take_turn
from backend.storage.journal import Journal
from backend.storage.store import open_store
from backend.storage.tables import metadata
from backend.types import Event, EventAction
from tests.integration.postgres_server import find_binaries, running_postgres

URL = os.environ.get("TEST_POSTGRES_URL")
BINARIES = find_binaries()
PROJECTS = itertools.count(1)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        URL is None and BINARIES is None,
        reason="no PostgreSQL server is installed (initdb not found), no TEST_POSTGRES_URL is set",
    ),
]


@pytest.fixture(scope="module")
def url():
    if URL is not None:
        yield URL
        return
    # Not pytest's folder, which is closed to the user the server runs as.
    with tempfile.TemporaryDirectory(prefix="calico-postgres-") as place:
        Path(place).chmod(0o755)
        with running_postgres(BINARIES, Path(place) / "server") as own:
            yield own


def an_event(annotation_id, second, *, project_id, deleted=False):
    action = EventAction.ANNOTATIONS_DELETED if deleted else EventAction.ANNOTATION_UPDATED
    text = f"{action}/{project_id}/{annotation_id}/{second}"
    moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
    return Event(
        key=hashlib.sha256(text.encode()).hexdigest(),
        action=action,
        project_id=project_id,
        annotation_id=annotation_id,
        updated_at=None if deleted else moment,
        is_deletion=deleted,
        payload=b"x" * 1000,
    )


@pytest.fixture
def store(url):
    opened = open_store(url, commit_timeout_s=30)
    yield opened
    opened.close()


def test_tables_are_the_declared_ones(store, url):
    engine = create_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_events_are_kept_once_and_heads_do_not_depend_on_order(store):
    heads = []
    for round_number in range(3):
        project = next(PROJECTS)
        history = [an_event(1, second, project_id=project) for second in range(5)]
        history += [
            an_event(2, 9, project_id=project),
            an_event(2, 0, project_id=project, deleted=True),
        ]
        shuffled = random.Random(round_number).sample(history * 2, len(history) * 2)
        assert sum(store.record_events([event]) for event in shuffled) == len(history)
        assert len(store.events(project)) == len(history)
        found = store.heads(project)
        assert found[0].key == history[4].key
        heads.append([(head.annotation_id, head.is_deleted) for head in found])
    assert heads == [[(1, False), (2, True)]] * 3


def test_a_refused_change_leaves_its_neighbours_alone(store):
    bad = Event(key="f" * 64, action=EventAction.OTHER, project_id=None)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="IntegrityError"):
        store.record_events([bad])
    project = next(PROJECTS)
    posts = [
        threading.Thread(
            target=store.record_events, args=([an_event(number, 0, project_id=project)],)
        )
        for number in range(16)
    ]
    for post in posts:
        post.start()
    for post in posts:
        post.join()
    assert len(store.heads(project)) == 16


def test_journal_rows_appear_in_the_order_of_their_numbers(store, url):
    project = next(PROJECTS)
    other = open_store(url, commit_timeout_s=30)
    is_inserted, is_allowed = threading.Event(), threading.Event()

    def slowly(connection):
        take_turn(connection)
        Journal(postgresql.insert).record(connection, an_event(1, 0, project_id=project), 0)
        is_inserted.set()
        is_allowed.wait(30)

    slow = threading.Thread(target=store.write, args=(slowly,), kwargs={"timeout_s": 60})
    slow.start()
    assert is_inserted.wait(30)
    late = [an_event(2, 0, project_id=project)]
    quick = threading.Thread(target=other.record_events, args=(late,))
    quick.start()
    quick.join(0.5)
    assert other.events(project) == ()
    is_allowed.set()
    for thread in (slow, quick):
        thread.join(30)
    found = [(one.seq, one.event.annotation_id) for one in other.events(project)]
    assert [annotation for _, annotation in found] == [1, 2]
    assert found == sorted(found)
    other.close()


def test_lost_connections_are_replaced(store, url):
    project = next(PROJECTS)
    store.record_events([an_event(1, 0, project_id=project)])
    assert len(store.heads(project)) == 1
    engine = create_engine(url)
    with engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        )
    engine.dispose()
    assert store.record_events([an_event(2, 0, project_id=project)]) == 1
    assert len(store.heads(project)) == 2


def test_a_password_is_not_in_the_message():
    with pytest.raises(StoreError) as caught:
        open_store("postgresql+psycopg://calico:hunter2@127.0.0.1:1/none")
    assert "hunter2" not in str(caught.value)
