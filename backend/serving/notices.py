"""What an annotator reads beside an image: why nothing is shown, or what was not found there.

Pure: sentences by 0-based image. How they are shown is the wire door's matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from backend.types import Task

ANY_IMAGE = 0  # the image beside which a note about the whole group stands
CHOOSE_LABEL = "Choose a label first: I cannot tell which of your labels this is."
NOT_FOUND = "I found none of the parts that I have learned."


def nothing_learned(groups: int) -> Mapping[int, str]:
    """Returns the note of a model that has learned nothing yet.

    Args:
        groups: after how many corrected groups it learns.
    """
    return {
        ANY_IMAGE: "I propose nothing by myself yet: outline the parts of about "
        f"{groups} groups and submit; then I learn them."
    }


def nothing_found() -> Mapping[int, str]:
    """Returns the note of a model that has learned parts and sees none of them."""
    return {ANY_IMAGE: NOT_FOUND}


def absent_notes(
    labels: Sequence[str],
    absent: Sequence[int],
    found: Iterable[int] = (),
    *,
    is_series: bool = False,
) -> Mapping[int, str]:
    """Returns a note for every image on which a pointed-out part was sought and not found.

    Where it was found, the note is empty: an earlier click may have said that it is absent.

    Args:
        labels: of what was pointed out; "" for something without a name.
        absent: the images without it.
        found: the images with it.
        is_series: it was followed through a series, and got lost.
    """
    named = [label for label in dict.fromkeys(labels) if label]
    what = " or ".join(named) if named else "the same part"
    fate = "lost here" if is_series else "not found here"
    return dict.fromkeys(found, "") | dict.fromkeys(absent, f"{what}: {fate}")


def problem_notes(task: Task, error: str, detail: str) -> Mapping[int, str]:
    """Returns the note of a task that could not be predicted, beside the image at fault.

    Args:
        task: the task.
        error: class name of the error.
        detail: its message, which begins with the field at fault where there is one.
    """
    if error == "PredictionFailed":
        return {ANY_IMAGE: "The prediction failed; the log of the backend has the details."}
    for index, field in enumerate(task.image_fields):
        if detail.startswith(f"{field}: "):
            why = detail.removeprefix(f"{field}: ")
            return {index: f"This image cannot be used, so nothing is suggested: {why}"}
    return {ANY_IMAGE: f"Nothing is suggested: {detail}"}
