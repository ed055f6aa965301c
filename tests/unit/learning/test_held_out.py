"""Which corrected tasks are kept for testing: none of the first ones, a share of later ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backend.learning.rows import Standing, TaskRow
from backend.learning.schedule import HELD_OUT_SHARE, LEARNED_FIRST, held_out_tasks, is_held_out


def _row(task_id: int, annotation_id: int, standing: Standing = Standing.CORRECTED) -> TaskRow:
    return TaskRow(
        task_id, "state", seq=annotation_id, standing=standing, annotation_id=annotation_id
    )


def test_the_first_tasks_are_all_learned_from() -> None:
    rows = [_row(task, task) for task in range(1, LEARNED_FIRST + 1)]
    assert not held_out_tasks(7, rows)


def test_of_later_tasks_a_share_is_kept() -> None:
    rows = [_row(task, task) for task in range(1, 3001)]
    kept = held_out_tasks(7, rows)
    later = 3000 - LEARNED_FIRST
    assert abs(len(kept) / later - HELD_OUT_SHARE) < 0.03
    assert min(kept) > LEARNED_FIRST


def test_annotations_made_later_move_no_task_to_the_other_side() -> None:
    rows = [_row(task, task) for task in range(1, 81)]
    before = held_out_tasks(7, rows)
    more = [*rows, *(_row(task, task) for task in range(81, 161))]
    assert held_out_tasks(7, more) & {row.task_id for row in rows} == before
    # A task that is corrected again has a new place in the journal and the annotation it had.
    again = [_row(row.task_id, row.task_id) for row in reversed(rows)]
    assert held_out_tasks(7, again) == before


def test_only_corrected_tasks_count() -> None:
    skipped = [_row(1000 + task, task, Standing.SKIPPED) for task in range(1, 101)]
    corrected = [_row(task, 200 + task) for task in range(1, LEARNED_FIRST + 1)]
    assert not held_out_tasks(7, [*skipped, *corrected])


def test_the_sides_of_later_tasks_never_change() -> None:
    assert [task for task in range(40) if is_held_out(7, task)] == [2, 29, 36, 37, 38]


@given(st.integers(1, 2**40), st.integers(1, 2**40), st.floats(0, 1))
def test_a_larger_share_keeps_what_was_kept(project: int, task: int, share: float) -> None:
    if is_held_out(project, task, share=share):
        assert is_held_out(project, task, share=min(1.0, share + 0.1))


def test_the_first_tasks_are_those_whose_annotations_were_made_first() -> None:
    """Not those with small task ids."""
    rows = [_row(task, 1000 - task) for task in range(1, 101)]
    kept = held_out_tasks(7, rows)
    assert kept
    assert max(kept) <= 100 - LEARNED_FIRST


def test_a_project_that_grows_only_ever_keeps_its_newest_task_besides() -> None:
    kept: frozenset[int] = frozenset()
    for count in range(1, 200):
        now = held_out_tasks(7, [_row(task, task) for task in range(1, count + 1)])
        assert kept <= now <= kept | {count}
        kept = now
