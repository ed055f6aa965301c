"""What Label Studio holds about annotations, for whoever may have missed an event.

Asks in two steps: which tasks changed (light pages without annotations), then the annotations of
those few. `/api/tasks/ID` is never asked: it would make Label Studio ask for a prediction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from backend.errors import LabelStudioError
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.connection import convert_answer

_PAGE_SIZE = 200
_MOST_PAGES = 1_000_000
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True)
class TaskSummary:
    """A task as a page of many shows it.

    Attributes:
        id: Label Studio's id.
        updated_at: UTC, by Label Studio's clock; moves with every change of an annotation.
        annotation_count: annotations it has, skipped ones included.
    """

    id: int
    updated_at: datetime
    annotation_count: int


@dataclass(frozen=True)
class FoundPrediction:
    """A prediction by its id; `result` is a JSON list."""

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
        project_id: whose tasks.
        since: leave out what did not change after this time.

    Raises:
        LabelStudioError: an answer that is refused, missing or of another form.
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
        yield TaskSummary(wire.id, _utc(wire.updated_at), count)


def fetch_annotated(
    client: LabelStudioClient, project_id: int, task_ids: Sequence[int]
) -> dict[int, bytes]:
    """Fetches a few tasks with all their annotations, skipped ones included.

    Returns:
        JSON object with id, data and annotations by task id; a task that is gone is missing.

    Raises:
        LabelStudioError: as above, or tasks that were not asked for: whether the others are gone
            cannot be told then.
    """
    query: dict[str, object] = {"selectedItems": {"all": False, "included": list(task_ids)}}
    values = _tasks(client, project_id, query, page_size=len(task_ids), fields="all")
    tasks = [convert_answer(value, _WireTask) for value in values]
    if strangers := {task.id for task in tasks} - set(task_ids):
        raise LabelStudioError(f"expected tasks {list(task_ids)}, got {sorted(strangers)} as well")
    return {task.id: msgspec.json.encode(task) for task in tasks}


def fetch_prediction(client: LabelStudioClient, prediction_id: int) -> FoundPrediction | None:
    """Fetches one prediction, None if it is gone.

    Raises:
        LabelStudioError: an answer that is refused or of another form.
    """
    value = client.get(f"/api/predictions/{prediction_id}/", may_miss=True)
    if value is None:
        return None
    wire = convert_answer(value, _WirePrediction)
    return FoundPrediction(wire.id, wire.model_version or "", msgspec.json.encode(wire.result))


def _tasks(
    client: LabelStudioClient,
    project_id: int,
    query: dict[str, object],
    *,
    page_size: int,
    fields: str,
) -> Iterator[object]:
    """Tasks of every page; Label Studio may make the pages smaller than asked."""
    params: dict[str, str | int] = {
        "project": project_id,
        "page_size": page_size,
        "fields": fields,
        "resolve_uri": "false",
        "query": msgspec.json.encode(query).decode(),
    }
    seen = 0
    for page in range(1, _MOST_PAGES):
        # Past the last page the answer is 404; on the first, the project is gone.
        answer = client.get("/api/tasks/", params=params | {"page": page}, may_miss=page > 1)
        found = _WirePage([]) if answer is None else convert_answer(answer, _WirePage)
        yield from found.tasks
        seen += len(found.tasks)
        if not found.tasks or (found.total is not None and seen >= found.total):
            return


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
