"""The one thread of the network: whose turn it is, what comes back, and when it ends."""

from __future__ import annotations

import gc
import threading
import weakref
from contextlib import suppress
from functools import partial

import pytest

from backend.serving.model_thread import ModelThread


def test_every_call_runs_in_the_same_thread_whoever_asks():
    thread, ran_in = ModelThread(), []

    def ask():
        thread.run(lambda: ran_in.append(threading.current_thread()))

    callers = [threading.Thread(target=ask) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(30)
    assert len(ran_in) == 8
    assert len(set(ran_in)) == 1
    assert not set(ran_in) & {*callers, threading.current_thread()}


def test_calls_come_one_after_the_other():
    thread, running, most, all_asked = ModelThread(), [], [], threading.Event()

    def work():
        running.append(1)
        most.append(len(running))
        assert all_asked.wait(30)
        running.pop()

    callers = [threading.Thread(target=thread.run, args=(work,)) for _ in range(6)]
    for caller in callers:
        caller.start()
    all_asked.set()
    for caller in callers:
        caller.join(30)
    assert most == [1] * 6


def test_the_answer_and_the_error_are_the_callers():
    thread = ModelThread()
    assert thread.run(lambda: 7) == 7
    with pytest.raises(KeyError, match="on purpose"):
        thread.run(lambda: {}["on purpose"])
    assert thread.run(lambda: "goes on") == "goes on"


def test_a_call_may_make_another():
    thread = ModelThread()
    assert thread.run(lambda: thread.run(lambda: 7)) == 7


def test_it_ends_with_its_last_owner():
    thread, ran_in = ModelThread(), []
    thread.run(lambda: ran_in.append(threading.current_thread()))
    assert ran_in[0].is_alive()
    del thread
    gc.collect()
    ran_in[0].join(30)
    assert not ran_in[0].is_alive()


class Pixels:
    """Something large."""


def test_nothing_of_a_call_stays_in_memory_after_its_answer_or_its_error():
    thread, gone = ModelThread(), []

    def fail(pixels):
        raise ValueError("on purpose")

    gc.disable()
    try:
        for what in (lambda pixels: None, fail):
            pixels = Pixels()
            weakref.finalize(pixels, gone.append, what)
            with suppress(ValueError):
                thread.run(partial(what, pixels))
            thread.run(lambda: None)  # the thread has let go of the call before
            del pixels
        assert len(gone) == 2
    finally:
        gc.enable()


def test_a_cancelled_call_frees_what_it_holds_before_its_turn():
    class Pixels:
        pass

    thread, gate, pixels = ModelThread(), threading.Event(), Pixels()
    hanging = thread.submit(gate.wait)
    held = weakref.ref(pixels)
    queued = thread.submit(partial(id, pixels))
    del pixels
    assert queued.cancel()
    gc.collect()
    assert held() is None
    gate.set()
    assert hanging.result(60)
