"""Who predicts goes first: what is seen, how long is waited, and what a crash leaves behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

import pytest

from backend import inference_priority
from backend.errors import StoppedError
from backend.inference_priority import InferencePriority, Yielding


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "predicting"


def predict_for_ever(path, has_begun):
    with InferencePriority(path).held():
        has_begun.set()
        threading.Event().wait()


def test_it_is_held_until_the_last_prediction_ends(path):
    ours, theirs = InferencePriority(path), InferencePriority(path)
    assert not theirs.is_held
    with ours.held():
        with ours.held():
            assert theirs.is_held
        assert theirs.is_held
    assert not theirs.is_held


def test_a_failed_prediction_gives_it_back(path):
    priority = InferencePriority(path)
    with pytest.raises(ValueError, match="on purpose"), priority.held():
        raise ValueError("on purpose")
    assert not priority.is_held


def test_another_process_is_seen_and_its_death_forgotten(path, monkeypatch):
    monkeypatch.setattr(inference_priority, "_HOLD_S", 1.0)
    context = multiprocessing.get_context("fork")
    has_begun = context.Event()
    process = context.Process(target=predict_for_ever, args=(path, has_begun))
    process.start()
    assert has_begun.wait(30)
    priority = InferencePriority(path)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    deadline = time.monotonic() + 30
    while priority.is_held:
        assert time.monotonic() < deadline


def test_what_another_boot_left_stops_nobody(path):
    priority = InferencePriority(path)
    path.write_bytes((2**62).to_bytes(8, "little"))
    assert not priority.is_held


def test_nobody_waits_without_a_prediction(path):
    yielding = Yielding(InferencePriority(path))
    yielding()
    assert yielding.waited_s == 0


def test_patience_ends_and_is_renewed(path):
    priority = InferencePriority(path)
    yielding = Yielding(priority, patience_s=0.02)
    with priority.held():
        yielding()
        waited_s = yielding.waited_s
        assert waited_s >= 0.02
        yielding()
        assert yielding.waited_s == waited_s
        yielding.renew()
        yielding()
    assert yielding.waited_s >= 2 * 0.02


def test_waiting_ends_with_the_prediction(path):
    priority = InferencePriority(path)
    looks = threading.Semaphore(0)
    yielding = Yielding(priority, patience_s=60, stop=lambda: bool(looks.release()))
    with priority.held():
        thread = threading.Thread(target=yielding)
        thread.start()
        assert all(looks.acquire(timeout=30) for _ in range(3))  # it has begun to wait
        assert thread.is_alive()
    thread.join(30)
    assert not thread.is_alive()
    assert yielding.waited_s > 0


class Clocks:
    """What the system's clocks say, wall and processor, when a test decides."""

    def __init__(self, monkeypatch):
        self.wall_s = self.worked_s = 100.0
        monkeypatch.setattr(inference_priority.time, "monotonic", lambda: self.wall_s)
        monkeypatch.setattr(inference_priority.time, "thread_time", lambda: self.worked_s)

    def go_on(self, wall_s, worked_s):
        self.wall_s += wall_s
        self.worked_s += worked_s


@pytest.fixture
def clocks(monkeypatch):
    return Clocks(monkeypatch)


@pytest.mark.parametrize(
    ("wall_s", "worked_s", "counted_s"),
    [
        (10, 10, 10),
        pytest.param(20, 10, 10, id="others had the processor half the time"),
        pytest.param(60, 10, 20, id="others had it nearly all the time"),
    ],
)
def test_the_clock_counts_work_and_a_third_of_the_wall(path, clocks, wall_s, worked_s, counted_s):
    yielding = Yielding(InferencePriority(path))
    began = yielding.working_s()
    clocks.go_on(wall_s, worked_s)
    assert yielding.working_s() - began == pytest.approx(counted_s)


def test_what_is_waited_does_not_count(path, clocks):
    yielding = Yielding(InferencePriority(path))
    began, passed = yielding.working_s(), yielding.passing_s()
    yielding.waited_s = 30.0
    clocks.go_on(33, 3)
    assert yielding.working_s() - began == pytest.approx(3)
    assert yielding.passing_s() - passed == pytest.approx(3)


@pytest.mark.parametrize(("wall_s", "worked_s"), [(60, 60), (300, 1)])
def test_what_came_before_an_update_is_neither_credit_nor_debt(path, clocks, wall_s, worked_s):
    yielding = Yielding(InferencePriority(path))
    yielding.working_s()
    clocks.go_on(900, 5)
    yielding.renew()
    clocks.go_on(wall_s, worked_s)  # views are encoded before anything is learned
    began = yielding.working_s()
    clocks.go_on(6, 5)
    assert yielding.working_s() - began == pytest.approx(5)
    clocks.go_on(24, 1)
    assert yielding.working_s() - began == pytest.approx(10)


def test_a_busy_processor_stretches_what_is_left(path, clocks):
    yielding = Yielding(InferencePriority(path))
    yielding.working_s()
    assert yielding.stretched(7.0) == 7.0
    clocks.go_on(20, 10)
    assert yielding.stretched(7.0) == pytest.approx(14)


def test_a_stop_ends_the_wait_and_the_work(path):
    priority, stop = InferencePriority(path), threading.Event()
    yielding = Yielding(priority, patience_s=60, stop=stop.is_set)
    yielding()
    threading.Timer(0.02, stop.set).start()
    with priority.held(), pytest.raises(StoppedError):
        yielding()
    with pytest.raises(StoppedError):
        yielding()


def hold_until_told(path, has_begun, may_end):
    with InferencePriority(path).held():
        has_begun.set()
        may_end.wait(60)


def test_the_end_of_one_process_does_not_end_the_priority_of_another(path):
    context = multiprocessing.get_context("fork")
    has_begun, may_end = context.Event(), context.Event()
    other = context.Process(target=hold_until_told, args=(path, has_begun, may_end))
    ours = InferencePriority(path)
    with ours.held():
        other.start()
        assert has_begun.wait(30)
    assert ours.is_held
    may_end.set()
    other.join()
    assert not ours.is_held


def test_a_prediction_longer_than_its_hold_leaves_the_slot_to_the_next(path, monkeypatch):
    monkeypatch.setattr(inference_priority, "_SLOTS", 1)
    monkeypatch.setattr(inference_priority, "_BYTES", 8)
    priority = InferencePriority(path)
    monkeypatch.setattr(inference_priority, "_HOLD_S", 0.0)
    long = priority.held()
    long.__enter__()
    monkeypatch.setattr(inference_priority, "_HOLD_S", 10.0)
    with priority.held():
        long.__exit__(None, None, None)
        assert priority.is_held
    assert not priority.is_held
