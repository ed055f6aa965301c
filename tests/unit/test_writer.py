"""The writer's clean-up: after those who wait are answered, one step at a time."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import create_engine, text

from backend.writer import WriterThread

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
