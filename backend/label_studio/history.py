"""The present annotations of Label Studio, to find events that were missed.

Two steps: which tasks changed (light pages without annotations), then the annotations of those
tasks. `/api/tasks/ID` is never called: Label Studio would request a prediction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from backend.errors import LabelStudioError
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.connection import convert_answer
from backend.label_studio.event_key import to_utc

_PAGE_SIZE = 200
_MOST_PAGES = 1_000_000
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True)
class TaskSummary:
    """A task as a page of tasks shows it.

    Attributes:
        id: Label Studio's id.
        updated_at: UTC, by Label Studio's clock; changes with every change of an annotation.
        annotation_count: number of its annotations, skipped ones included.
    """

    id: int
    updated_at: datetime
    annotation_count: int


@dataclass(frozen=True)
class RawPrediction:
    """A prediction that Label Studio stores; `result` is a JSON list."""

    id: int
    version: str
    result: bytes


class _WirePage(msgspec.Struct):
    tasks: list[object]
    total: int | None = None


class _WireSummary(msgspec.Struct):
    id: int
    updated_at: datetime
    total_annotations: int | None = None
    cancelled_annotations: int | None = None


class _WireTask(msgspec.Struct):
    id: int
    data: object = None
    annotations: list[object] = []


class DrawnTask(msgspec.Struct, frozen=True):
    """A task with its annotations, skipped ones included, and predictions, as Label Studio says."""

    id: int
    data: object = None
    annotations: list[object] = []
    predictions: list[object] = []


class _WirePrediction(msgspec.Struct):
    id: int
    result: list[object] = []
    model_version: str | None = None


def find_tasks(
    client: LabelStudioClient, project_id: int, *, since: datetime | None = None
) -> Iterator[TaskSummary]:
    """Yields the tasks of a project, page by page.

    Args:
        client: Label Studio.
        project_id: the project of the tasks.
        since: leave out tasks that did not change after this time.

    Raises:
        LabelStudioError: refused, not found, or an answer of another form.
    """
    query: dict[str, object] = {}
    if since is not None:
        changed = {
            "filter": "filter:tasks:updated_at",
            "operator": "greater",
            "type": "Datetime",
            "value": since.astimezone(UTC).strftime(_TIME),
        }
        query["filters"] = {"conjunction": "and", "items": [changed]}
    for value in _tasks(client, project_id, query, page_size=_PAGE_SIZE, fields="task_only"):
        wire = convert_answer(value, _WireSummary)
        count = (wire.total_annotations or 0) + (wire.cancelled_annotations or 0)
        yield TaskSummary(wire.id, to_utc(wire.updated_at), count)


def fetch_annotated(
    client: LabelStudioClient, project_id: int, task_ids: Sequence[int]
) -> dict[int, bytes]:
    """Fetches tasks with all their annotations, skipped ones included.

    Returns:
        Task id -> JSON object with id, data and annotations; a deleted task is missing.

    Raises:
        LabelStudioError: as above; or Label Studio returned other tasks, and then a missing task
            need not be deleted.
    """
    tasks = [convert_answer(value, _WireTask) for value in _chosen(client, project_id, task_ids)]
    return {task.id: msgspec.json.encode(task) for task in tasks}


def fetch_drawn(
    client: LabelStudioClient, project_id: int, task_ids: Sequence[int]
) -> tuple[DrawnTask, ...]:
    """Fetches tasks with all their annotations and predictions; a deleted task is missing.

    Raises:
        LabelStudioError: see `fetch_annotated`.
    """
    values = _chosen(client, project_id, task_ids)
    return tuple(convert_answer(value, DrawnTask) for value in values)


def _chosen(
    client: LabelStudioClient, project_id: int, task_ids: Sequence[int]
) -> list[dict[str, object]]:
    """Tasks by their ids, with all that was drawn on them."""
    query: dict[str, object] = {"selectedItems": {"all": False, "included": list(task_ids)}}
    values = _tasks(client, project_id, query, page_size=len(task_ids), fields="all")
    tasks = [convert_answer(value, dict[str, object]) for value in values]
    if strangers := {convert_answer(task, _WireTask).id for task in tasks} - set(task_ids):
        raise LabelStudioError(f"expected tasks {list(task_ids)}, got {sorted(strangers)} as well")
    return tasks


def fetch_prediction(client: LabelStudioClient, prediction_id: int) -> RawPrediction | None:
    """Fetches one prediction; None if it was deleted.

    Raises:
        LabelStudioError: refused, or an answer of another form.
    """
    value = client.get(f"/api/predictions/{prediction_id}/", may_miss=True)
    if value is None:
        return None
    wire = convert_answer(value, _WirePrediction)
    return RawPrediction(wire.id, wire.model_version or "", msgspec.json.encode(wire.result))


def _tasks(
    client: LabelStudioClient,
    project_id: int,
    query: dict[str, object],
    *,
    page_size: int,
    fields: str,
) -> Iterator[object]:
    """Yields the tasks of every page; pages may be smaller than requested."""
    seen = 0
    for page in range(1, _MOST_PAGES):
        answer = client.task_page(project_id, query, page=page, page_size=page_size, fields=fields)
        wire = _WirePage([]) if answer is None else convert_answer(answer, _WirePage)
        yield from wire.tasks
        seen += len(wire.tasks)
        if not wire.tasks or (wire.total is not None and seen >= wire.total):
            return
