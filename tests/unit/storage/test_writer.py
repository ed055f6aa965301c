"""The writer's clean-up: after those who wait are answered, one step at a time."""

from __future__ import annotations

import sqlite3
import threading

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import OperationalError

from backend.storage.database import open_engines
from backend.storage.writer import WriterThread

SOON = 10.0


class SlowUpkeep:
    """Is due for `steps` steps, each of which waits for `gate`."""

    def __init__(self, *, steps, fails=False):
        self.steps = steps
        self.fails = fails
        self.gate = threading.Event()
        self.done = threading.Event()

    @property
    def is_due(self):
        return self.steps > 0

    def prune(self, connection):
        assert self.gate.wait(SOON)
        self.steps -= 1
        if self.steps == 0:
            self.done.set()
        if self.fails:
            raise RuntimeError("on purpose")


@pytest.fixture
def start(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path / 'a.sqlite3'}")
    writers = []

    def begin(upkeep):
        writers.append(WriterThread(engine, queue_size=8, upkeep=upkeep))
        return writers[-1]

    yield begin
    for writer in writers:
        writer.close()
    engine.dispose()


def ask(connection):
    return connection.execute(text("SELECT 7")).scalar()


def test_a_commit_is_answered_before_the_clean_up(start):
    upkeep = SlowUpkeep(steps=3)
    writer = start(upkeep)
    assert writer.run(ask, timeout_s=SOON) == 7
    assert upkeep.steps == 3
    upkeep.gate.set()
    assert upkeep.done.wait(SOON)  # it goes on while nothing else is to do


def test_a_change_waits_for_one_step_at_most(start):
    upkeep = SlowUpkeep(steps=3)
    writer = start(upkeep)
    writer.run(ask, timeout_s=SOON)
    seen = writer.submit(lambda connection: upkeep.steps)
    upkeep.gate.set()
    assert seen.result(SOON) == 2


def test_a_clean_up_that_fails_does_not_stop_the_writer(start, caplog):
    upkeep = SlowUpkeep(steps=2, fails=True)
    upkeep.gate.set()
    writer = start(upkeep)
    assert [writer.run(ask, timeout_s=SOON) for _ in range(3)] == [7, 7, 7]
    assert upkeep.done.wait(SOON)
    assert "upkeep failed" in caplog.text


class NoUpkeep:
    is_due = False


class Batch:
    """A database whose writer thread takes what is submitted here as one batch."""

    def __init__(self, folder, **options):
        self.path = folder / "batch.sqlite3"
        self.engine, self.reading = open_engines(f"sqlite:///{self.path}")
        self.on_writer("CREATE TABLE kept (number INTEGER, body BLOB)")
        self.writer = WriterThread(self.engine, queue_size=64, upkeep=NoUpkeep(), **options)

    def on_writer(self, statement):
        """Runs a statement on the one pooled connection of the writer."""
        with self.engine.connect() as connection:
            return connection.connection.cursor().execute(statement).fetchall()

    def run(self, *changes):
        """What became of each change: the exception it was answered with, or its result."""
        is_taken, is_allowed = threading.Event(), threading.Event()

        def hold(_connection):
            is_taken.set()
            is_allowed.wait(SOON)

        held = self.writer.submit(hold)
        assert is_taken.wait(SOON)  # alone in its transaction
        futures = [self.writer.submit(change) for change in changes]
        is_allowed.set()
        held.result(SOON)
        return [future.exception(SOON) or future.result() for future in futures]

    def kept(self):
        """What another process finds in the file."""
        with sqlite3.connect(self.path) as other:
            found = [number for (number,) in other.execute("SELECT number FROM kept ORDER BY 1")]
        other.close()
        return found

    def close(self):
        self.writer.close()
        self.engine.dispose()
        self.reading.dispose()


@pytest.fixture
def batch(tmp_path):
    opened = Batch(tmp_path)
    yield opened
    opened.close()


def add(number, nbytes=10):
    def change(connection):
        row = {"number": number, "body": bytes(nbytes)}
        connection.execute(text("INSERT INTO kept VALUES (:number, :body)"), row)
        return number

    return change


def rolled_back(connection):
    """Ends the whole transaction behind SQLAlchemy's back, as SQLite does when a disk is full."""
    connection.connection.cursor().execute("ROLLBACK")
    raise OSError("the disk is gone")


def swallowing(number):
    """A change that catches the error of a statement that ended the transaction."""

    def change(connection):
        try:
            rolled_back(connection)
        except OSError:
            return add(number)(connection)

    return change


def test_a_full_disk_within_a_batch_loses_nothing_that_was_acknowledged(batch):
    (pages,) = batch.on_writer("PRAGMA page_count")[0]
    batch.engine.dispose()

    @event.listens_for(batch.engine, "connect")
    def _limit(raw, _record):
        raw.execute(f"PRAGMA max_page_count={pages + 4}")

    answers = batch.run(add(1), add(2, 10**6), add(3))
    assert [answers[0], answers[2]] == [1, 3]
    assert isinstance(answers[1], OperationalError)
    assert batch.kept() == [1, 3]


def test_a_transaction_that_ended_halfway_is_not_taken_for_one_change_s_error(batch):
    answers = batch.run(add(1), rolled_back, add(3), add(4))
    assert [answers[0], *answers[2:]] == [1, 3, 4]
    assert isinstance(answers[1], Exception)
    assert batch.kept() == [1, 3, 4]


def test_the_last_change_of_a_batch_may_end_the_transaction_too(batch):
    answers = batch.run(add(1), add(2), rolled_back)
    assert answers[:2] == [1, 2]
    assert batch.kept() == [1, 2]


def test_a_change_that_hides_the_end_of_the_transaction_is_not_acknowledged_unless_kept(batch):
    answers = batch.run(add(1), swallowing(2), add(3))
    kept = batch.kept()
    assert kept == [answer for answer in answers if isinstance(answer, int)]
    assert {1, 3} <= set(kept)


def test_a_commit_that_fails_is_acknowledged_to_nobody(batch):
    begun = []

    @event.listens_for(batch.engine, "commit")
    def _fail(connection):
        begun.append(connection)
        if len(begun) == 2:  # the first is the one that holds the batch back
            connection.connection.cursor().execute("ROLLBACK")
            raise OSError("disk I/O error")

    answers = batch.run(add(1), add(2))
    assert all(isinstance(answer, OSError) for answer in answers)
    assert batch.kept() == []


def test_a_connection_that_died_within_a_batch_loses_nothing_that_was_acknowledged(batch):
    deaths = []

    def die(connection):
        if not deaths:
            deaths.append(connection.connection.dbapi_connection.close())
        return add(2)(connection)

    answers = batch.run(add(1), die, add(3))
    assert answers == [1, 2, 3]
    assert batch.kept() == [1, 2, 3]


def test_a_database_that_cannot_be_begun_refuses_the_rest_at_once(batch):
    begun = []

    @event.listens_for(batch.engine, "begin")
    def _count(_connection):
        begun.append(1)
        if len(begun) > 2:
            raise OSError("no connection")

    answers = batch.run(rolled_back, *(add(number) for number in range(20)))
    assert all(isinstance(answer, Exception) for answer in answers)
    assert len(begun) == 3
    event.remove(batch.engine, "begin", _count)
