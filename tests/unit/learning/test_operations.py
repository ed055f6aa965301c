"""What goes wrong around a training, and what an operator finds afterwards."""

from __future__ import annotations

import threading

import pytest

from backend.errors import BusyError, StoppedError, StoreError
from backend.learning.schedule import Cause, RunState
from backend.learning.session import PassCounter
from backend.storage.versions import VersionStatus
from tests.unit.learning.school import PROJECT, TRAINED, School


@pytest.fixture
def school(tmp_path):
    opened = School(tmp_path)
    yield opened
    opened.store.close()


def last(school):
    return school.runs.runs(PROJECT, limit=1)[0]


def current(school):
    return school.versions.current(PROJECT)


@pytest.mark.parametrize("error", [BusyError("busy"), StoreError("locked")])
def test_a_busy_database_loses_a_report_and_not_the_run(school, monkeypatch, error):
    told = school.runs._change

    def change(run_id, **values):
        if "stage" in values:
            raise error
        return told(run_id, **values)

    monkeypatch.setattr(school.runs, "_change", change)
    school.correct(*TRAINED[:3])
    assert school.train() == 1
    assert last(school).state is RunState.PUBLISHED


def test_a_full_disk_leaves_no_half_adapter(school):
    def full(folder):
        folder.mkdir()
        (folder / "adapter.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    update = school.updater.update
    school.updater.update = lambda *_given, **_options: full
    school.correct(*TRAINED[:3])
    school.train()
    assert (last(school).state, current(school)) == (RunState.FAILED, None)
    assert "No space left" in last(school).error
    assert list((school.versions.folder / ".incoming").iterdir()) == []
    school.updater.update = update
    school.press_button()
    school.train()
    assert last(school).state is RunState.PUBLISHED


def test_a_stop_in_the_middle_of_anything_stops_the_run(school):
    def stopped(*_given, **_options):
        raise StoppedError("told to stop")

    school.updater.probe = stopped
    school.correct(*TRAINED[:3])
    school.train()
    assert (last(school).state, last(school).error) == (RunState.STOPPED, "stopped")
    del school.updater.probe
    school.train()
    assert (last(school).state, last(school).cause) == (RunState.PUBLISHED, Cause.RETRY)


def test_new_weights_have_everything_learned_anew(school):
    school.correct(*TRAINED[:3])
    school.train()
    old = current(school)
    school.updater.base = "c" * 64
    school.trainer = school.new_trainer(base=lambda: school.updater.base)
    school.train()
    new = current(school)
    assert (last(school).cause, new.base) == (Cause.WEIGHTS, "c" * 64)
    assert (new.parent_id, new.corrections) == (old.id, 3)
    assert school.versions.find(old.id).status is VersionStatus.RETIRED
    assert school.train() == 0


def test_new_weights_that_learn_nothing_are_not_tried_again_and_again(school):
    school.correct(*TRAINED[:3])
    school.train()
    school.updater.base, school.updater.gain = "c" * 64, -5.0
    school.trainer = school.new_trainer(base=lambda: school.updater.base)
    school.train()
    assert (last(school).cause, last(school).state) == (Cause.WEIGHTS, RunState.REJECTED)
    assert school.train() == 0


def test_weights_that_stayed_are_no_news(school):
    school.correct(*TRAINED[:3])
    school.train()
    school.trainer = school.new_trainer(base=lambda: school.updater.base)
    assert school.train() == 0


def test_the_model_is_loaded_while_corrections_still_wait(school):
    opened = []
    school.open_session = lambda open_session=school.open_session: (
        opened.append(1) or (open_session())
    )
    school.trainer = school.new_trainer()
    assert school.train() == 0
    assert opened == []
    school.correct(*TRAINED[:2])
    assert school.train() == 0
    assert opened == [1]
    school.correct(TRAINED[2], second=1)
    assert school.train() == 1
    assert opened == [1]


def test_a_model_that_cannot_be_loaded_early_is_tried_again(school):
    outcomes = iter([OSError("not yet"), None])
    open_session = school.open_session

    def open_later():
        if error := next(outcomes):
            raise error
        return open_session()

    school.open_session = open_later
    school.trainer = school.new_trainer()
    school.correct(*TRAINED[:2])
    assert school.train() == 0
    school.correct(TRAINED[2], second=1)
    assert school.train() == 1
    assert last(school).state is RunState.PUBLISHED


def test_rounds_that_fail_become_rarer(school):
    pauses = []

    class Stop(threading.Event):
        def wait(self, timeout=None):
            pauses.append(timeout)
            if len(pauses) == 6:
                self.set()
            return self.is_set()

    def fail():
        raise StoreError("disk full")

    school.runs.abandon_dead = fail
    school.trainer.run(Stop(), tick_s=2.0)
    assert pauses == [4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_passes_tell_how_far_they_are_and_hand_back_what_was_found():
    told = []
    tell = PassCounter(lambda share, eta_s: told.append((share, eta_s)), passes=2)
    assert [tell("a"), tell("b"), tell("c")] == ["a", "b", "c"]
    assert [share for share, _ in told] == [0.5, 1.0, 1.0]
    assert told[0][1] > 0
    assert told[1][1] == told[2][1] == 0
