"""Who is there to train."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from sqlalchemy import update

from backend.learning.trainer_presence import Attendance, present_trainers
from backend.process_identity import owner_name
from backend.storage.store import open_store
from backend.storage.tables import trainer


@pytest.fixture
def store(tmp_path):
    opened = open_store(f"sqlite:///{tmp_path / 'calico.sqlite3'}")
    yield opened
    opened.close()


def present(store):
    return [one.owner for one in present_trainers(store)]


def attend(store, owner):
    """A trainer that came and was killed before it could leave."""
    attendance = Attendance(store, owner=owner, every_s=60)
    attendance._report()


def test_a_trainer_is_there_until_it_leaves(store):
    attendance = Attendance(store, every_s=0.01)
    assert present(store) == []
    attendance.start()
    while not present(store):
        pass
    assert present(store) == [owner_name()]
    attendance.close()
    assert present(store) == []


def test_a_trainer_elsewhere_is_there_while_it_speaks(store):
    attend(store, "elsewhere/7/abcd")
    assert present(store) == ["elsewhere/7/abcd"]
    with_age = update(trainer).values(seen_at_us=trainer.c.seen_at_us - 60_000_000)
    store.write(lambda connection: connection.execute(with_age), timeout_s=5)
    assert present(store) == []


def test_a_killed_process_of_this_machine_is_gone_at_once(store):
    host = owner_name().partition("/")[0]
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
    attend(store, f"{host}/{process.pid}/abcd")
    attend(store, f"{host}/{os.getppid()}/abcd")
    assert present(store) == [f"{host}/{os.getppid()}/abcd"]


def test_who_has_been_silent_is_forgotten(store):
    attend(store, "elsewhere/7/abcd")
    with_age = update(trainer).values(seen_at_us=trainer.c.seen_at_us - 60_000_000)
    store.write(lambda connection: connection.execute(with_age), timeout_s=5)
    attend(store, "elsewhere/8/abcd")
    with store.read() as connection:
        owners = connection.execute(trainer.select()).scalars().all()
    assert owners == ["elsewhere/8/abcd"]
