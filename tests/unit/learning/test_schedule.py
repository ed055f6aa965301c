"""When to train: one row per rule, and what wishes, setbacks and crashes change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.learning.schedule import (
    Cause,
    NewCorrection,
    PastRun,
    RunState,
    SchedulePolicy,
    Situation,
    due,
    pause_until_us,
)

S = 1_000_000
POLICY = SchedulePolicy(every=3, age_s=100, pause_s=10, most_pause_s=60, attempts=3)


def news(*seconds):
    """Corrections made at these seconds; their seq is the second."""
    return tuple(NewCorrection(seq=second, at_us=second * S) for second in seconds)


def run(state, began, ended=None, seq=0):
    return PastRun(state, began * S, None if ended is None else ended * S, seq)


def ask(now, waiting, *runs, request=None, button=None):
    times = (None if at is None else at * S for at in (request, button))
    return due(POLICY, Situation(now * S, waiting, *times, runs))


def test_nothing_to_learn_from_starts_nothing():
    assert ask(10_000, (), request=9_000, button=9_000) is None


@pytest.mark.parametrize(
    ("now", "waiting", "cause"),
    [
        (5, news(1, 2), None),
        (5, news(1, 2, 3), Cause.COUNT),
        (100, news(1), None),
        (101, news(1), Cause.AGE),
    ],
)
def test_corrections_start_a_run_by_number_or_age(now, waiting, cause):
    assert ask(now, waiting) is cause


def test_a_wish_is_answered_at_once_and_once():
    assert ask(5, news(1), request=4) is Cause.REQUEST
    assert ask(5, news(1), button=4) is Cause.BUTTON
    published = run(RunState.PUBLISHED, 6, 8, seq=0)
    assert ask(9, news(1), published, request=4, button=5) is None
    assert ask(9, news(1), published, button=7) is Cause.BUTTON


def test_a_wish_is_answered_even_after_a_setback():
    rejected = run(RunState.REJECTED, 6, 8, seq=5)
    assert ask(9, news(1, 2, 3), rejected, request=8) is Cause.REQUEST
    assert ask(9, news(1, 2, 3), rejected) is None


def test_a_stopped_or_killed_run_did_not_answer_a_wish():
    for state in (RunState.STOPPED, RunState.ABANDONED):
        assert ask(9, news(1), run(state, 6, 8), request=4) is Cause.REQUEST


def test_nothing_starts_beside_a_run():
    assert ask(500, news(1, 2, 3), run(RunState.RUNNING, 6), request=7) is None


def test_what_was_rejected_waits_for_as_many_new_corrections():
    rejected = run(RunState.REJECTED, 6, 8, seq=3)
    assert ask(1_000, news(1, 2, 3), rejected) is None
    assert ask(1_000, news(1, 2, 3, 950), rejected) is None
    assert ask(1_000, news(1, 2, 3, 899), rejected) is Cause.AGE
    assert ask(1_000, news(1, 2, 3, 990, 991, 992), rejected) is Cause.COUNT


def test_setbacks_wait_twice_as_long_each_time_up_to_a_limit():
    rejected = [run(RunState.REJECTED, t, t + 1) for t in (90, 60, 30, 10)]
    waits = [pause_until_us(POLICY, rejected[:n]) / S - 91 for n in (0, 1, 2, 3, 4)]
    assert waits[1:] == [10, 20, 40, 60]
    assert pause_until_us(POLICY, []) == 0
    assert pause_until_us(POLICY, [run(RunState.PUBLISHED, 95, 96), *rejected]) == 0


def test_a_killed_run_is_repeated_at_once_then_later_then_not():
    killed = [run(RunState.ABANDONED, t, t + 1, seq=3) for t in (90, 60, 30)]
    assert ask(91, news(1, 2, 3), *killed[:1]) is Cause.RETRY
    assert ask(91, news(1, 2, 3), *killed[:2]) is None
    assert ask(111, news(1, 2, 3), *killed[:2]) is Cause.RETRY
    assert ask(10_000, news(1, 2, 3), *killed) is None
    assert ask(10_000, news(1, 2, 3, 9_000), *killed) is Cause.AGE
    assert ask(10_000, news(1, 2, 3), *killed, request=80) is None
    assert ask(10_000, news(1, 2, 3), *killed, request=95) is Cause.REQUEST


def test_a_stopped_run_goes_on_as_soon_as_there_is_a_trainer():
    assert ask(20, news(1), run(RunState.STOPPED, 6, 8)) is Cause.RETRY


states = st.sampled_from([state for state in RunState if state is not RunState.RUNNING])
runs = st.lists(st.tuples(states, st.integers(0, 50), st.integers(0, 20)), max_size=6)


@given(runs, st.lists(st.integers(0, 1000), max_size=8), st.integers(0, 10**6))
def test_waiting_long_enough_always_trains_on_something_newer(past, seconds, later):
    history = [run(s, 1000 - 100 * n, 1001 - 100 * n, q) for n, (s, q, _) in enumerate(past)]
    late = 10**7 + later
    found = ask(late, news(*seconds, 2000), *history)
    assert found is not None
