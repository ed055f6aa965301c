from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backend.learning.held_out import HELD_OUT_SHARE, is_held_out


def test_the_share_is_what_it_says_in_every_project():
    for project in (1, 7, 10**12):
        held = sum(is_held_out(project, task) for task in range(5000))
        assert abs(held / 5000 - HELD_OUT_SHARE) < 0.02


def test_the_sides_never_change():
    assert [task for task in range(40) if is_held_out(7, task)] == [2, 29, 36, 37, 38]


@given(st.integers(1, 2**40), st.integers(1, 2**40), st.floats(0, 1))
def test_a_larger_share_keeps_what_was_held_out(project, task, share):
    if is_held_out(project, task, share=share):
        assert is_held_out(project, task, share=min(1.0, share + 0.1))
