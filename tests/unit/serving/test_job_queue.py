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

    def run(self, work):
        self.started.set()
        assert self.gate.wait(SOON)
        self.ran.append(work)
        if work == "breaks":
            raise RuntimeError("on purpose")
        return work.upper()

    def on_late(self, work, answer):
        self.late.append((work, answer))
        self.came_late.set()

    def submit(self, *works, is_urgent=False):
        return self.queue.submit([(work, work) for work in works], is_urgent=is_urgent)

    def collect(self, jobs, seconds=SOON):
        return self.queue.collect(jobs, deadline=time.monotonic() + seconds)


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
    assert bench.ran == ["a", *(job.work for job in taken), "b"]
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
