"""Tasks with all their annotations, as Label Studio holds them now: one task at a time.

Only a few tasks are asked for at once, because an answer holds every brush stroke of its tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from backend.decoding import read_json
from backend.errors import LabelStudioError
from backend.label_schema import LabelSchema
from backend.label_studio.client import LabelStudioClient, LabelStudioProject
from backend.label_studio.event import missed_events, read_annotation
from backend.label_studio.history import fetch_annotated, find_tasks
from backend.label_studio.task import decode_task
from backend.types import Annotation, StoredPrediction, Task

_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class StoredTask:
    """A task and what was drawn on it.

    Attributes:
        task: its images; a task without usable images carries its problem.
        annotations: submitted ones, skipped ones included; drafts are left out.
    """

    task: Task
    annotations: tuple[Annotation, ...]


class _WireTask(msgspec.Struct):
    id: int
    data: msgspec.Raw = msgspec.Raw(b"null")


def task_ids(client: LabelStudioClient, project_id: int) -> tuple[int, ...]:
    """Returns the ids of a project's tasks, rising.

    Raises:
        LabelStudioError: refused, or no such project.
    """
    return tuple(sorted(found.id for found in find_tasks(client, project_id)))


def stored_tasks(
    client: LabelStudioClient,
    project: LabelStudioProject,
    schema: LabelSchema,
    ids: Sequence[int],
) -> Iterator[StoredTask]:
    """Yields tasks in the given order; a task that was deleted meanwhile is left out.

    Raises:
        LabelStudioError: refused, or not reached.
        InvalidEventError: an annotation of an unknown form.
    """
    for start in range(0, len(ids), _AT_ONCE):
        wanted = ids[start : start + _AT_ONCE]
        found = fetch_annotated(client, project.id, wanted)
        for task_id in wanted:
            if task_id in found:
                yield read_stored_task(found.pop(task_id), project, schema)


def read_stored_task(
    content: bytes, project: LabelStudioProject, schema: LabelSchema
) -> StoredTask:
    """Reads one task of Label Studio's API.

    Args:
        content: JSON object with id, data and annotations.
        project: where the task is.
        schema: its labeling config.

    Raises:
        InvalidEventError: an annotation of an unknown form.
    """
    wire = read_json(content, _WireTask)
    task = decode_task(wire.id, project.id, wire.data, schema, place=f"task {wire.id}")
    events = missed_events(content, project_id=project.id, label_config=project.label_config)
    return StoredTask(task, tuple(read_annotation(event) for event in events))


def newest_prediction(
    client: LabelStudioClient, task_id: int, schema: LabelSchema
) -> StoredPrediction | None:
    """Returns the prediction of a task that was stored last, None without any."""
    try:
        predictions = client.predictions(task_id, schema)
    except LabelStudioError as error:
        raise LabelStudioError(f"predictions of task {task_id}: {error}") from error
    return max(predictions, key=lambda prediction: prediction.id or 0, default=None)
