"""Two servers of one PostgreSQL want the same locks in opposite orders.

Needs the installed binaries of PostgreSQL. Run with -m slow.
"""

from __future__ import annotations

import hashlib
import threading

import pytest
from sqlalchemy import Engine, event, text

from backend.storage.store import open_store
from backend.types import Event, EventAction
from tests.integration.postgres_server import own_postgres

pytestmark = pytest.mark.slow
SOON = 30
TABLES = "CREATE TABLE shared_row (number INTEGER PRIMARY KEY, writer TEXT)"
ROWS = "INSERT INTO shared_row VALUES (1, ''), (2, '')"


@pytest.fixture(scope="module")
def url():
    with own_postgres() as (own, _):
        store = open_store(own)
        store.write(lambda connection: connection.execute(text(TABLES)).close(), timeout_s=SOON)
        store.write(lambda connection: connection.execute(text(ROWS)).close(), timeout_s=SOON)
        store.close()
        yield own


@pytest.fixture
def servers(url):
    opened = [open_store(url, commit_timeout_s=SOON) for _ in range(2)]
    yield opened
    for store in opened:
        store.close()


@pytest.fixture
def refusals():
    """What the database refused, to either server."""
    errors = []

    def note(context):
        errors.append(str(context.original_exception))

    event.listen(Engine, "handle_error", note)
    yield errors
    event.remove(Engine, "handle_error", note)


class Batch:
    """What one server's writer thread finds in its queue at once."""

    def __init__(self, store):
        self.store = store
        self._is_taken, self._is_allowed = threading.Event(), threading.Event()
        self._held = store.submit(self._hold)
        assert self._is_taken.wait(SOON)  # alone in its transaction

    def _hold(self, _connection):
        self._is_taken.set()
        self._is_allowed.wait(SOON)

    def record(self, event):
        """Queues an event; returns a thread that has its receipt once it ended."""
        waiting = self.store.waiting
        thread = Result(lambda: self.store.record_events([event]))
        while self.store.waiting == waiting:
            thread.join(0.01)
        return thread

    def go(self):
        self._is_allowed.set()


class Result(threading.Thread):
    """Runs a function; `value` is its result, or its exception."""

    def __init__(self, function):
        super().__init__()
        self._function = function
        self.value = None
        self.start()

    def run(self):
        try:
            self.value = self._function()
        except Exception as error:
            self.value = error


def an_event(number):
    return Event(
        key=hashlib.sha256(f"event {number}".encode()).hexdigest(),
        action=EventAction.ANNOTATION_CREATED,
        project_id=1,
        annotation_id=number,
        payload=b"{}",
    )


def keep(store, name):
    key = hashlib.sha256(name.encode()).hexdigest()
    store.keep_prediction(key, b"body", project_id=1, task_id=1, version="v1")
    return key


def test_events_and_kept_answers_are_locked_in_one_order(servers, refusals):
    first, second = map(Batch, servers)
    both_are_there = threading.Barrier(2)

    def meet(_connection):
        both_are_there.wait(SOON)

    # The first holds its answer and wants the journal; the second the other way round.
    keep(first.store, "same answer")
    meetings = [first.store.submit(meet)]
    receipts = [first.record(an_event(1)), second.record(an_event(2))]
    meetings.append(second.store.submit(meet))
    key = keep(second.store, "same answer")
    first.go()
    second.go()
    for meeting in meetings:
        meeting.result(SOON)
    for receipt in receipts:
        receipt.join(SOON)
    assert [receipt.value for receipt in receipts] == [1, 1]
    assert [head.annotation_id for head in first.store.heads(1)] == [1, 2]
    assert first.store.find_prediction(key) == b"body"
    assert refusals == []


def test_kept_answers_are_locked_in_one_order(servers, refusals):
    names = [f"answer {number}" for number in range(2)]
    both_are_there = threading.Barrier(2)
    batches = [Batch(store) for store in servers]
    meetings, lasts = [], []
    for batch, order in zip(batches, (names, names[::-1]), strict=True):
        keep(batch.store, order[0])
        meetings.append(batch.store.submit(lambda _connection: both_are_there.wait(SOON)))
        keep(batch.store, order[1])
        lasts.append(batch.store.submit(lambda _connection: None))
    for batch in batches:
        batch.go()
    for future in meetings + lasts:
        future.result(SOON)
    found = [servers[0].find_prediction(keep(servers[1], name)) for name in names]
    assert found == [b"body", b"body"]
    assert refusals == []


def test_a_change_that_lost_a_deadlock_is_made_again(servers, refusals):
    both_have_one = threading.Barrier(2)
    tries = []

    def change(name, order):
        def write(connection):
            tries.append(name)
            for number in order:
                set_ = "UPDATE shared_row SET writer = writer || :name WHERE number = :number"
                connection.execute(text(set_), {"name": name, "number": number})
                if len(tries) <= 2 and number == order[0]:
                    both_have_one.wait(SOON)
            return name

        return write

    futures = [
        store.submit(change(name, order))
        for store, name, order in zip(servers, "ab", ((1, 2), (2, 1)), strict=True)
    ]
    assert [future.result(SOON) for future in futures] == ["a", "b"]
    assert len(tries) == 3, "one of the two was made again"
    (refusal,) = refusals
    assert "deadlock detected" in refusal
    with servers[0].read() as connection:
        written = list(connection.execute(text("SELECT writer FROM shared_row")).scalars())
    assert [sorted(one) for one in written] == [["a", "b"], ["a", "b"]]


def test_a_change_that_always_loses_is_refused(servers):
    """A change that meets the same error every time is tried a few times, not for ever."""
    tries = []

    def lose(connection):
        tries.append(1)
        raised = "DO $$ BEGIN RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01'; END $$"
        connection.execute(text(raised))

    with pytest.raises(Exception, match="deadlock detected"):
        servers[0].submit(lose).result(SOON)
    assert len(tries) == 5
    assert servers[0].record_events([an_event(3)]) == 1
