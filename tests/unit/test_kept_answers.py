"""How kept answers are counted and deleted, step by step."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, insert, select

from backend.kept_answers import KeptAnswers
from backend.tables import metadata, prediction


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
