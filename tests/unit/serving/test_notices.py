"""The sentences beside an image: what is wrong, what was not found, what to do first."""

from __future__ import annotations

from backend.serving.notices import absent_notes, nothing_found, nothing_learned, problem_notes
from backend.types import Task

TASK = Task(1, 1, ("a", "b"), ("tasks[0].data.images[0]", "tasks[0].data.images[1]"))


def test_an_image_that_cannot_be_used_is_named_where_it_is() -> None:
    notes = problem_notes(
        TASK, "MediaUnavailableError", "tasks[0].data.images[1]: the host answered 404"
    )
    assert notes == {1: "This image cannot be used, so nothing is suggested: the host answered 404"}


def test_a_problem_of_the_whole_task_stands_beside_the_first_image() -> None:
    assert problem_notes(TASK, "InvalidTaskError", "data: expected a list") == {
        0: "Nothing is suggested: data: expected a list"
    }
    assert problem_notes(TASK, "PredictionFailed", "ValueError while predicting") == {
        0: "The prediction failed; the log of the backend has the details."
    }


def test_a_new_project_is_told_what_to_do() -> None:
    assert nothing_learned(5) == {
        0: "I propose nothing by myself yet: outline the parts of about 5 groups and submit; "
        "then I learn them."
    }
    assert nothing_found() == {0: "I found none of the parts that I have learned."}


def test_what_is_absent_is_told_on_the_images_without_it() -> None:
    assert absent_notes(["handle", "handle"], (1, 2)) == {
        1: "handle: not found here",
        2: "handle: not found here",
    }
    assert absent_notes(["lid", "handle"], (1,)) == {1: "lid or handle: not found here"}
    assert absent_notes([""], (1,)) == {1: "the same part: not found here"}
    assert absent_notes(["handle"], ()) == {}
    assert absent_notes(["handle"], (1,), {1, 2}) == {1: "handle: not found here", 2: ""}
    assert absent_notes(["lid"], (1,), is_series=True) == {1: "lid: lost here"}
