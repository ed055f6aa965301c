"""Accepts predictions in bulk, without a look, and takes that back.

Label Studio's own action copies the predictions: a copy has neither editor nor lead time, so
learning leaves it out until a person submits it. What was copied is written to a file beside the
backend's data before Label Studio is asked, so that exactly these annotations can be deleted again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from backend.cli.progress import progress_bar
from backend.decoding import read_json
from backend.errors import LabelStudioError, SettingsError
from backend.label_studio.client import LabelStudioClient, LabelStudioProject
from backend.label_studio.copies import (
    StoredAnnotation,
    copy_predictions,
    delete_annotation,
    stored_annotations,
)
from backend.label_studio.predictions import (
    PredictionSummary,
    TaskState,
    delete_duplicates,
    stored_predictions,
    task_states,
)
from calico_model.staging import replace_text

_AT_ONCE = 20
_T = TypeVar("_T")


class CopiedTask(msgspec.Struct, frozen=True):
    """One task whose prediction was accepted in bulk; `annotation` is None until it is known."""

    task: int
    prediction: int
    annotation: int | None = None


class _Record(msgspec.Struct):
    copied: list[CopiedTask] = []


class CopiedTasks:
    """The file of what was accepted in bulk in one project.

    Args:
        folder: data of the backend.
        project_id: the project.
    """

    def __init__(self, folder: Path, project_id: int) -> None:
        self._path = folder / f"accepted-in-bulk-{project_id}.json"

    def load(self) -> tuple[CopiedTask, ...]:
        """Returns what was accepted and not taken back.

        Raises:
            SettingsError: the file cannot be read.
        """
        try:
            return tuple(read_json(self._path.read_bytes(), _Record).copied)
        except FileNotFoundError:
            return ()
        except (OSError, msgspec.MsgspecError) as error:
            raise SettingsError(f"{self._path}: {error}") from error

    def save(self, copied: Sequence[CopiedTask]) -> None:
        """Replaces the file.

        Raises:
            SettingsError: the folder cannot be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"--data-dir: {error}") from error
        text = msgspec.json.format(msgspec.json.encode(_Record(list(copied))), indent=1).decode()
        replace_text(self._path, text + "\n")


@dataclass(frozen=True)
class Candidates:
    """Tasks that nobody has begun, by what their regions say.

    Attributes:
        sure: predictions of which every region reaches the threshold.
        doubtful: tasks with a region below it.
        empty: tasks without regions, which are never accepted unseen.
    """

    sure: tuple[PredictionSummary, ...]
    doubtful: int
    empty: int


def find_candidates(
    client: LabelStudioClient, states: Sequence[TaskState], version: str, threshold: float
) -> Candidates:
    """Looks at the regions of every task that nobody has begun and the version has predicted.

    Raises:
        LabelStudioError: refused or not reached.
    """
    open_states = [s for s in states if not s.is_begun and (s.versions or {version}) >= {version}]
    sure: list[PredictionSummary] = []
    doubtful = empty = 0
    with progress_bar("Looking at predicted regions", len(open_states)) as show:
        for done, state in enumerate(open_states, start=1):
            show(done)
            # The score of a task is the mean of its regions: below it there is a region below it.
            if state.score is not None and 0 < state.score < threshold:
                doubtful += 1
                continue
            found = [p for p in stored_predictions(client, state.id) if p.version == version]
            if not found:
                continue
            newest = found[-1]
            if not newest.regions:
                empty += 1
            elif all((region.score or 0.0) >= threshold for region in newest.regions):
                sure.append(newest)
            else:
                doubtful += 1
    return Candidates(tuple(sure), doubtful, empty)


def accept(
    client: LabelStudioClient,
    project: LabelStudioProject,
    predictions: Sequence[PredictionSummary],
    copied: CopiedTasks,
    version: str,
) -> int:
    """Makes annotations of predictions; returns how many.

    Args:
        client: Label Studio.
        project: of the tasks.
        predictions: one per task, all of `version`.
        copied: where they are remembered.
        version: their model version.

    Raises:
        LabelStudioError: refused or not reached; what was made is remembered.
    """
    made = 0
    with progress_bar("Accepting", len(predictions)) as show:
        for chunk in _chunks(predictions):
            task_ids = [prediction.task_id for prediction in chunk]
            for task_id in task_ids:
                delete_duplicates(client, project.id, task_id, {version})
            before = copied.load()
            plan = [CopiedTask(one.task_id, one.id) for one in chunk]
            copied.save([*before, *plan])
            copy_predictions(client, project.id, task_ids, version)
            found = stored_annotations(client, project.id, project.label_config, task_ids)
            known = [_with_annotation(one, found) for one in plan]
            copied.save([*before, *known])
            made += sum(one.annotation is not None for one in known)
            show(made)
    return made


@dataclass(frozen=True)
class Undone:
    """What became of tasks that were accepted in bulk.

    Attributes:
        deleted: their annotation was deleted.
        touched: a person submitted or works on it, so it stays.
        gone: it was deleted before.
    """

    deleted: int
    touched: int
    gone: int


def undo(
    client: LabelStudioClient,
    project: LabelStudioProject,
    copied: CopiedTasks,
    *,
    is_dry_run: bool,
) -> Undone:
    """Deletes the annotations that were made in bulk and that nobody has touched since.

    Raises:
        LabelStudioError: refused or not reached; the next call continues.
    """
    entries = copied.load()
    drafts = {state.id for state in task_states(client, project.id) if state.has_draft}
    deleted = touched = gone = 0
    with progress_bar("Taking back", len(entries)) as show:
        for chunk in _chunks(entries):
            task_ids = sorted({one.task for one in chunk})
            found = stored_annotations(client, project.id, project.label_config, task_ids)
            for one in chunk:
                annotation = _annotation_of(one, found)
                if annotation is None:
                    gone += 1
                elif annotation.was_seen or one.task in drafts:
                    touched += 1
                else:
                    if not is_dry_run:
                        delete_annotation(client, annotation.id)
                    deleted += 1
            if not is_dry_run:
                finished = set(chunk)
                copied.save([one for one in copied.load() if one not in finished])
            show(deleted + touched + gone)
    return Undone(deleted, touched, gone)


def copy_again(
    client: LabelStudioClient,
    project: LabelStudioProject,
    copied: CopiedTasks,
    task_id: int,
    annotation_ids: Sequence[int],
) -> tuple[int, ...]:
    """Replaces copies that nobody has looked at by copies of their predictions as they are now.

    Args:
        client: Label Studio.
        project: of the task.
        copied: where copies are remembered.
        task_id: the task.
        annotation_ids: copies that differ from their predictions by now.

    Returns:
        Ids of the copies that stay: Label Studio could not copy just their prediction again.

    Raises:
        LabelStudioError: refused or not reached.
    """
    left = []
    for number in annotation_ids:
        found = stored_annotations(client, project.id, project.label_config, [task_id])
        old = next((one for one in found if one.id == number), None)
        if old is None:
            continue
        of_same = [one for one in found if one.prediction_id == old.prediction_id]
        version = _only_of_its_version(stored_predictions(client, task_id), old.prediction_id)
        if version is None or len(of_same) > 1:
            left.append(number)
            continue
        # Label Studio copies no prediction that an annotation has started from.
        delete_annotation(client, number)
        try:
            copy_predictions(client, project.id, [task_id], version)
        except LabelStudioError as error:
            raise LabelStudioError(
                f"the copy of prediction {old.prediction_id} was deleted and could not be made "
                f"again ({error}); accept it once more with calico review"
            ) from error
        found = stored_annotations(client, project.id, project.label_config, [task_id])
        _move_entry(copied, old, found)
    return tuple(left)


def _move_entry(
    copied: CopiedTasks, old: StoredAnnotation, found: Sequence[StoredAnnotation]
) -> None:
    """Remembers the new copy in the place of the old one, if that was remembered."""
    entries = copied.load()
    moved = [
        one
        if _annotation_of(one, [old]) is None
        else _with_annotation(CopiedTask(one.task, one.prediction), found)
        for one in entries
    ]
    if moved != list(entries):
        copied.save(moved)


def _only_of_its_version(
    predictions: Sequence[PredictionSummary], prediction_id: int | None
) -> str | None:
    """The version of a prediction; None if it is gone, or the version has several."""
    versions = [one.version for one in predictions]
    mine = [one.version for one in predictions if one.id == prediction_id]
    return mine[0] if mine and versions.count(mine[0]) == 1 else None


def _annotation_of(one: CopiedTask, found: Sequence[StoredAnnotation]) -> StoredAnnotation | None:
    """The annotation that was made for a task, None if it is gone."""
    for annotation in found:
        is_it = annotation.task_id == one.task and annotation.prediction_id == one.prediction
        if is_it and one.annotation in (None, annotation.id):
            return annotation
    return None


def _with_annotation(one: CopiedTask, found: Sequence[StoredAnnotation]) -> CopiedTask:
    annotation = _annotation_of(one, [each for each in found if not each.was_seen])
    return one if annotation is None else CopiedTask(one.task, one.prediction, annotation.id)


def _chunks(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), _AT_ONCE):
        yield items[start : start + _AT_ONCE]
