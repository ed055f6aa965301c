"""How kept answers are counted and deleted, step by step."""

from __future__ import annotations

import hashlib

import pytest
from sqlalchemy import create_engine, func, insert, select

from backend.storage.store import open_store
from backend.storage.tables import metadata, prediction
from backend.storage.upkeep import KeptAnswers
from tests.unit.learning.databases import database_url, postgres_server  # noqa: F401


@pytest.fixture
def connection():
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.connect() as opened:
        yield opened
    engine.dispose()


def add(kept, connection, number, nbytes=10):
    row = {"key": str(number), "version": "v", "body": bytes(nbytes), "created_at_us": number}
    kept.add(connection, insert(prediction).values(row), nbytes)


def keys(connection):
    query = select(prediction.c.key).order_by(prediction.c.created_at_us)
    return list(connection.execute(query).scalars())


def prune(kept, connection):
    """Steps until nothing is due."""
    steps = 0
    while kept.is_due:
        kept.prune(connection)
        steps += 1
        assert steps < 100
    return steps


def test_nothing_is_due_before_anything_is_added():
    assert not KeptAnswers(max_rows=1, max_bytes=1).is_due


def test_an_answer_that_could_never_stay_is_not_taken():
    assert KeptAnswers(max_rows=1, max_bytes=2).takes(b"ab")
    assert not KeptAnswers(max_rows=1, max_bytes=2).takes(b"abc")
    assert not KeptAnswers(max_rows=0, max_bytes=2).takes(b"ab")


@pytest.mark.parametrize("bounds", [(100, 10**9), (10**9, 1000)])
def test_the_oldest_go_a_few_per_step_until_some_room_is_free(connection, bounds):
    kept = KeptAnswers(max_rows=bounds[0], max_bytes=bounds[1])
    for number in range(200):
        add(kept, connection, number)
    kept.prune(connection)  # counts
    kept.prune(connection)
    assert len(keys(connection)) == 200 - 32
    prune(kept, connection)
    assert 85 <= len(keys(connection)) < 100
    assert keys(connection)[-1] == "199"


def test_what_fits_stays(connection):
    kept = KeptAnswers(max_rows=100, max_bytes=1000)
    for number in range(100):
        add(kept, connection, number)
    prune(kept, connection)
    assert len(keys(connection)) == 100


def test_answers_that_were_never_committed_cost_no_others(connection):
    kept = KeptAnswers(max_rows=100, max_bytes=1000)
    for number in range(50):
        add(kept, connection, number)
    prune(kept, connection)
    connection.commit()
    for number in range(50, 150):
        add(kept, connection, number)
    connection.rollback()
    assert kept.is_due
    prune(kept, connection)
    assert len(keys(connection)) == 50


def key_of(number):
    return hashlib.sha256(f"{number}".encode()).hexdigest()


def keep_through(store, numbers, nbytes=10):
    """Keeps answers one after another, each committed before the next."""
    for number in numbers:
        store.keep_prediction(
            key_of(number), bytes(nbytes), project_id=1, task_id=number, version="v"
        )
        # The queue is in order; and after each commit one step of the clean-up is taken.
        store.write(lambda _: None, timeout_s=30)


def kept_now(store):
    query = select(func.count(), func.coalesce(func.sum(func.length(prediction.c.body)), 0))
    with store.read() as connection:
        rows, nbytes = connection.execute(query).one()
    return rows, int(nbytes)


def test_the_ceiling_on_rows_holds_in_every_database(database_url):  # noqa: F811
    store = open_store(database_url, commit_timeout_s=30, cached_predictions=100)
    for first in range(0, 400, 47):
        keep_through(store, range(first, min(first + 47, 400)))
        assert kept_now(store)[0] <= 100 + 47
    keep_through(store, [2000, 2001, 2002])
    assert kept_now(store)[0] <= 103
    store.close()


def test_the_ceiling_on_bytes_holds_in_every_database(database_url):  # noqa: F811
    store = open_store(database_url, commit_timeout_s=30, cached_prediction_bytes=20_000)
    keep_through(store, range(200), nbytes=1000)
    assert kept_now(store)[1] <= 23_000
    store.close()


def test_an_answer_that_is_there_already_is_not_counted(database_url):  # noqa: F811
    store = open_store(database_url, commit_timeout_s=30, cached_predictions=100)
    keep_through(store, range(90))
    for _ in range(5):
        keep_through(store, range(90))
    assert kept_now(store)[0] == 90
    store.close()


def test_what_another_process_has_taken_away_is_noticed(database_url):  # noqa: F811
    store = open_store(database_url, commit_timeout_s=30, cached_predictions=100)
    keep_through(store, range(90))
    other = open_store(database_url, commit_timeout_s=30, is_guest=True)
    other.write(lambda connection: connection.execute(prediction.delete()).close(), timeout_s=30)
    keep_through(store, range(100, 180))
    assert kept_now(store)[0] == 80
    other.close()
    store.close()
