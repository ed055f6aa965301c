"""When requests wait again for a source that was too late."""

from __future__ import annotations

import pytest

from backend.serving.source_pause import LONGEST_PAUSE_S, SourcePause

BUDGET_S = 3.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pause(clock: Clock) -> SourcePause:
    return SourcePause(clock)


def test_nobody_waits_while_the_late_call_is_under_way(pause: SourcePause, clock: Clock) -> None:
    assert pause.is_over
    pause.begin_call()
    pause.note_time_out(BUDGET_S)
    clock.now += 1000.0
    assert not pause.is_over
    assert pause.running_s() == 1000.0
    pause.end_call()
    assert pause.is_over  # slow, and not broken: an image is encoded once
    assert pause.running_s() == 0.0


def test_a_call_that_began_after_the_time_out_blocks_nobody(pause: SourcePause) -> None:
    pause.begin_call()
    pause.note_time_out(BUDGET_S)
    pause.end_call()
    pause.begin_call()
    assert pause.is_over


def test_the_pause_doubles_with_each_time_out_up_to_a_limit(
    pause: SourcePause, clock: Clock
) -> None:
    lengths = []
    for _ in range(9):
        pause.note_time_out(BUDGET_S)
        began = clock.now
        while not pause.is_over:
            clock.now += 1.0
        lengths.append(clock.now - began)
    assert lengths[:6] == [0.0, 6.0, 12.0, 24.0, 48.0, 96.0]
    assert lengths[6:] == [LONGEST_PAUSE_S] * 3


def test_an_answer_in_time_ends_the_pause_and_forgets_the_row(
    pause: SourcePause, clock: Clock
) -> None:
    for _ in range(5):
        pause.note_time_out(BUDGET_S)
    assert not pause.is_over
    pause.note_answer()
    assert pause.is_over
    pause.note_time_out(BUDGET_S)
    assert pause.is_over  # the first of a new row
