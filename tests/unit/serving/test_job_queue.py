"""The queue before the model: order, joining, bounds, and who gets a late answer."""

from __future__ import annotations

import threading
import time

import pytest

from backend.errors import BusyError
from backend.serving.job_queue import JobQueue

SOON = 10.0


class Bench:
    """A queue whose work waits for `gate`; remembers what ran and what came late."""

    def __init__(self, *, capacity=100, workers=1):
        self.gate = threading.Event()
        self.ran = []
        self.late = []
        self.came_late = threading.Event()
        self.started = threading.Event()
        self.queue = JobQueue(self.run, on_late=self.on_late, capacity=capacity, workers=workers)

    def run(self, work, is_wanted):
        self.is_wanted = is_wanted
        self.started.set()
        assert self.gate.wait(SOON)
        self.ran.append(work)
        if work == "breaks":
            raise RuntimeError("on purpose")
        return work.upper()

    def on_late(self, work, answer):
        self.late.append((work, answer))
        self.came_late.set()

    def submit(self, *works, is_urgent=False, is_kept=True):
        pairs = [(work, work) for work in works]
        return self.queue.submit(pairs, is_urgent=is_urgent, is_kept=is_kept)

    def collect(self, jobs, seconds=SOON, is_client_gone=None):
        return self.queue.collect(
            jobs, deadline=time.monotonic() + seconds, is_client_gone=is_client_gone
        )


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.gate.set()
    made.queue.close()


def test_answers_come_in_the_order_of_the_question(bench):
    bench.gate.set()
    assert bench.collect(bench.submit("a", "b", "c")) == ("A", "B", "C")
    assert bench.queue.waiting == 0


def test_what_somebody_waits_for_goes_first(bench):
    first = bench.submit("a")
    assert bench.started.wait(SOON)
    batch = bench.submit("b", "c")
    urgent = bench.submit("d", is_urgent=True)
    bench.gate.set()
    bench.collect(first + batch + urgent)
    assert bench.ran == ["a", "d", "b", "c"]


def test_waiting_batch_work_is_pulled_forward_when_it_becomes_urgent(bench):
    first = bench.submit("a")
    assert bench.started.wait(SOON)
    batch = bench.submit("b", "c")
    again = bench.submit("c", is_urgent=True)
    bench.gate.set()
    assert bench.collect(first + batch + again) == ("A", "B", "C", "C")
    assert bench.ran == ["a", "c", "b"]


def test_equal_work_is_done_once(bench):
    jobs = bench.submit("a", "a") + bench.submit("a")
    bench.gate.set()
    assert bench.collect(jobs) == ("A", "A", "A")
    assert bench.ran == ["a"]


def test_what_is_not_done_in_time_is_finished_and_handed_on(bench):
    assert bench.collect(bench.submit("a"), seconds=0) == (None,)
    bench.gate.set()
    assert bench.came_late.wait(SOON)
    assert bench.late == [("a", "A")]


def test_an_answer_somebody_still_waits_for_is_not_handed_on(bench):
    bench.collect(bench.submit("a"), seconds=0)
    again = bench.submit("a")
    bench.gate.set()
    assert bench.collect(again) == ("A",)
    bench.collect(bench.submit("b"))
    assert bench.late == []


def test_a_full_queue_takes_what_fits_and_joins_what_is_under_way():
    bench = Bench(capacity=2)
    first = bench.submit("a")
    assert bench.started.wait(SOON)
    jobs = bench.submit("b", "a", "c", "d", "e", "c")
    assert [job is None for job in jobs] == [False, False, False, True, True, False]
    assert bench.queue.waiting == 2
    bench.gate.set()
    assert bench.collect(first + jobs) == ("A", "B", "A", "C", None, None, "C")
    assert bench.collect(bench.submit("d")) == ("D",)
    bench.queue.close()


def test_a_full_queue_still_takes_a_few_that_somebody_waits_for():
    bench = Bench(capacity=1)
    first = bench.submit("a")
    assert bench.started.wait(SOON)
    batch = bench.submit("b", "c")
    urgent = bench.submit(*(f"d{number}" for number in range(100)), is_urgent=True)
    taken = [job for job in urgent if job is not None]
    assert 10 < len(taken) < 100
    bench.gate.set()
    bench.collect(first + batch + urgent)
    assert bench.ran == ["a", *(job.job for job in taken), "b"]
    bench.queue.close()


def test_one_broken_task_leaves_the_others_alone(bench, caplog):
    bench.gate.set()
    assert bench.collect(bench.submit("a", "breaks", "c")) == ("A", None, "C")
    assert "prediction failed" in caplog.text


def test_closing_lets_waiters_go(bench):
    jobs = bench.submit("a", "b")
    answers = []
    waiter = threading.Thread(target=lambda: answers.append(bench.collect(jobs, 60)))
    waiter.start()
    assert bench.started.wait(SOON)
    bench.queue.close()
    waiter.join(SOON)
    assert answers == [(None, None)]
    with pytest.raises(BusyError):
        bench.submit("c")
    bench.gate.set()


def test_an_ending_queue_finishes_what_somebody_waits_for_and_lets_batches_go(bench):
    clicks = bench.submit("click", is_urgent=True)
    assert bench.started.wait(SOON)
    opened, batch = bench.submit("opened", is_urgent=True), bench.submit("b1", "b2")
    bench.queue.end()
    assert bench.collect(batch) == (None, None)
    with pytest.raises(BusyError, match="stopping"):
        bench.submit("late", is_urgent=True)
    bench.gate.set()
    assert bench.collect(clicks + opened) == ("CLICK", "OPENED")
    assert bench.ran == ["click", "opened"]
    assert (bench.queue.waiting, bench.queue.pending) == (0, 0)


def test_many_threads_get_their_own_answers():
    bench = Bench(workers=3)
    bench.gate.set()
    wrong = []

    def ask(number):
        names = [f"{number}-{index % 4}" for index in range(20)]
        if bench.collect(bench.submit(*names)) != tuple(names):
            wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert bench.queue.waiting == 0
    bench.queue.close()


@pytest.mark.parametrize("leaves", ["late", "gone"])
def test_work_of_use_to_nobody_else_is_not_begun_when_its_asker_leaves(bench, leaves):
    first = bench.submit("a")
    assert bench.started.wait(SOON)
    dropped = bench.submit("b", is_urgent=True, is_kept=False)
    if leaves == "late":
        assert bench.collect(dropped, seconds=0) == (None,)
    else:
        assert bench.collect(dropped, is_client_gone=lambda: True) == (None,)
    assert bench.queue.waiting == 0
    bench.gate.set()
    assert bench.collect(first + bench.submit("c")) == ("A", "C")
    assert bench.ran == ["a", "c"]
    assert bench.queue.waiting == bench.queue.pending == 0
    assert bench.collect(bench.submit("b", is_kept=False)) == ("B",)  # asked again, it is done
    assert bench.late == []


def test_work_under_way_is_told_when_nobody_wants_it_any_more(bench):
    jobs = bench.submit("a", is_kept=False)
    assert bench.started.wait(SOON)
    assert bench.is_wanted()
    again = bench.submit("a", is_kept=False)
    bench.collect(jobs, seconds=0)
    assert bench.is_wanted()  # somebody else waits
    bench.collect(again, is_client_gone=lambda: True)
    assert not bench.is_wanted()
    bench.submit("a")
    assert bench.is_wanted()


def test_kept_work_goes_on_when_its_asker_leaves(bench):
    bench.collect(bench.submit("a"), is_client_gone=lambda: True)
    assert bench.started.wait(SOON)
    assert bench.is_wanted()
    bench.gate.set()
    assert bench.came_late.wait(SOON)
    assert bench.late == [("a", "A")]


def test_an_answer_that_is_there_is_taken_whoever_stays(bench):
    bench.gate.set()
    jobs = bench.submit("a", is_kept=False)
    assert bench.collect(jobs) == ("A",)
    assert bench.collect(bench.submit("b", is_kept=False), is_client_gone=lambda: False) == ("B",)


def test_some_workers_are_kept_for_what_somebody_waits_for():
    gate = threading.Event()

    def run(work, _is_wanted):
        assert work == "urgent" or gate.wait(SOON)
        return work

    queue = JobQueue(run, on_late=lambda *_: None, capacity=9, workers=2, urgent_workers=1)
    batch = queue.submit([("a", "a"), ("b", "b")], is_urgent=False)
    for key in (1, 2):
        urgent = queue.submit([(key, "urgent")], is_urgent=True)
        assert queue.collect(urgent, deadline=time.monotonic() + SOON) == ("urgent",)
    gate.set()
    assert queue.collect(batch, deadline=time.monotonic() + SOON) == ("a", "b")
    queue.close()
