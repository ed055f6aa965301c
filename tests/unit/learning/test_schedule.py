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
    still_rises,
)

S = 1_000_000
POLICY = SchedulePolicy(every=3, age_s=100, pause_s=10, most_pause_s=60, attempts=3)


def news(*seconds):
    """Corrections made at these seconds; their seq is the second."""
    return tuple(NewCorrection(seq=second, at_us=second * S) for second in seconds)


def run(state, began, ended=None, seq=0, cause=Cause.COUNT):
    return PastRun(state, began * S, None if ended is None else ended * S, seq, cause)


def refinement(state, began, ended=None):
    return run(state, began, began + 1 if ended is None else ended, seq=9, cause=Cause.REFINE)


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


# --- better versions that follow by themselves ----------------------------------------------

PUBLISHED = run(RunState.PUBLISHED, 10, 12, seq=9)


def test_a_published_version_is_refined_as_long_as_that_makes_it_better():
    assert ask(20, (), PUBLISHED) is Cause.REFINE
    better = [refinement(RunState.PUBLISHED, 10 * n) for n in (4, 3, 2)]
    assert ask(100, (), *better[1:], PUBLISHED) is Cause.REFINE
    assert ask(100, (), *better, PUBLISHED) is None  # as often as the policy says
    assert due(SchedulePolicy(refinements=0), Situation(100 * S, runs=[PUBLISHED])) is None


@pytest.mark.parametrize(
    ("runs", "rises"),
    [
        ((), False),
        ((PUBLISHED,), True),
        ((refinement(RunState.REJECTED, 20), PUBLISHED), False),
        ((refinement(RunState.FAILED, 20), PUBLISHED), False),
        ((refinement(RunState.ABANDONED, 20), PUBLISHED), False),
        ((refinement(RunState.STOPPED, 20), PUBLISHED), True),
        ((refinement(RunState.STOPPED, 30), refinement(RunState.REJECTED, 20), PUBLISHED), False),
        ((run(RunState.RUNNING, 20, cause=Cause.REFINE), PUBLISHED), True),
        ((run(RunState.RUNNING, 20), PUBLISHED), False),
        ((run(RunState.REJECTED, 20, 21), PUBLISHED), False),
        ((run(RunState.STOPPED, 20, 21), PUBLISHED), True),
        ((refinement(RunState.PUBLISHED, 20),), False),  # of what, nobody knows
    ],
)
def test_a_version_rises_until_a_refinement_was_tried_in_vain(runs, rises):
    assert still_rises(POLICY, runs) is rises


def test_anything_new_comes_before_a_refinement():
    assert ask(20, news(15, 16, 17), PUBLISHED) is Cause.COUNT
    assert ask(20, news(15), PUBLISHED) is None  # it waits for more, and so does the refinement
    assert ask(20, news(15), PUBLISHED, request=14) is Cause.REQUEST


def test_nothing_is_refined_beside_a_run():
    assert ask(20, (), run(RunState.RUNNING, 15), PUBLISHED) is None


def test_a_refinement_without_gain_is_no_setback():
    """What comes next does not wait for it, nor is it taken for a decision about it."""
    vain = refinement(RunState.REJECTED, 20)
    assert pause_until_us(POLICY, [vain, PUBLISHED]) == 0
    assert ask(22, news(15, 16, 17), vain, PUBLISHED) is Cause.COUNT
    rejected = run(RunState.REJECTED, 30, 31, seq=17)
    assert pause_until_us(POLICY, [vain, rejected]) == pause_until_us(POLICY, [rejected])


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.ABANDONED, RunState.REJECTED])
def test_a_refinement_that_comes_to_nothing_delays_no_new_correction(state):
    assert pause_until_us(POLICY, [refinement(state, 20), PUBLISHED]) == 0


def test_a_refinement_answers_no_wish():
    """It did not look at anything new, so what was wished for before it is still wished for."""
    found = refinement(RunState.PUBLISHED, 20)
    assert ask(25, news(15), found, PUBLISHED, request=14) is Cause.REQUEST
    assert ask(25, news(15), found, PUBLISHED, button=9) is None


states = st.sampled_from([state for state in RunState if state is not RunState.RUNNING])
runs = st.lists(st.tuples(states, st.integers(0, 50), st.integers(0, 20)), max_size=6)


@given(runs, st.lists(st.integers(0, 1000), max_size=8), st.integers(0, 10**6))
def test_waiting_long_enough_always_trains_on_something_newer(past, seconds, later):
    history = [run(s, 1000 - 100 * n, 1001 - 100 * n, q) for n, (s, q, _) in enumerate(past)]
    late = 10**7 + later
    found = ask(late, news(*seconds, 2000), *history)
    assert found is not None
