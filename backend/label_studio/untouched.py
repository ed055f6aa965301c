"""Untouched tasks of a project, and the model version by which Label Studio orders tasks.

Label Studio's own filters choose the tasks: no annotation, no skip, no draft, and no prediction of
the given version yet. So a run that was interrupted continues with the tasks that are left.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from backend.label_schema import LabelSchema
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.connection import convert_answer
from backend.label_studio.onboarding import BACKEND_TITLE, update_ml_backend
from backend.label_studio.task import parse_task
from backend.types import Task

PAGE_SIZE = 20


@dataclass(frozen=True)
class UntouchedPage:
    """A page of tasks.

    Attributes:
        tasks: by rising id; a task without usable images carries its problem.
        total: number of untouched tasks, this page included.
    """

    tasks: tuple[Task, ...]
    total: int


class _WirePage(msgspec.Struct):
    tasks: list[dict[str, object]]
    total: int = 0


class _WireBackend(msgspec.Struct):
    id: int
    url: str
    title: str = ""
    model_version: str | None = None


def untouched_tasks(
    client: LabelStudioClient,
    project_id: int,
    schema: LabelSchema,
    *,
    version: str,
    after: int = 0,
    only: int | None = None,
    least_certain_page: int | None = None,
    page_size: int = PAGE_SIZE,
) -> UntouchedPage:
    """Returns the next untouched tasks that have no prediction of a version.

    Args:
        client: Label Studio.
        project_id: the project of the tasks.
        schema: its labeling config.
        version: model version of the predictions.
        after: id of the last task of the earlier page.
        only: id of the only task to look for, or None.
        least_certain_page: 1-based number of a page by rising score of the prediction that the
            tasks have; None returns a page by rising id.
        page_size: most tasks of the page.

    Raises:
        LabelStudioError: an answer that is refused or of another form.
    """
    items = [
        filter_item("total_annotations", "Number", "equal", 0),
        filter_item("cancelled_annotations", "Number", "equal", 0),
        filter_item("draft_exists", "Boolean", "equal", False),
        filter_item("predictions_model_versions", "List", "not_contains", [version]),
        filter_item("id", "Number", "greater", after)
        if only is None
        else filter_item("id", "Number", "equal", only),
    ]
    ordering = "tasks:id" if least_certain_page is None else "tasks:predictions_score"
    query = {"filters": {"conjunction": "and", "items": items}, "ordering": [ordering]}
    answer = client.task_page(project_id, query, page=least_certain_page or 1, page_size=page_size)
    page = convert_answer(answer, _WirePage)
    tasks = []
    for value in page.tasks:
        value.setdefault("project", project_id)
        tasks.append(parse_task(value, schema, place=f"task {value.get('id')}"))
    return UntouchedPage(tuple(tasks), page.total)


def show_version(
    client: LabelStudioClient,
    project_id: int,
    version: str,
    *,
    ours: frozenset[str],
    credentials: tuple[str, str] | None,
) -> bool:
    """Makes Label Studio order tasks by the scores of a version.

    Label Studio compares the version of a prediction with a field of the project. The field holds
    either a fixed version or the title of the backend that serves predictions. Label Studio fetches
    new predictions and orders tasks by their score only if title and version are the same text. So
    the backend gets its version as title, and Label Studio copies the title into the project. A
    title that a user chose is not changed.

    Args:
        client: Label Studio.
        project_id: id of the project.
        version: model version of its predictions from now on.
        ours: titles this backend may have had before.
        credentials: user name and password that Label Studio has to send, or None.

    Returns:
        Whether Label Studio orders the tasks by this version now.

    Raises:
        LabelStudioError: refused, or not reached.
    """
    # This call makes Label Studio ask /setup, which updates `model_version`.
    backends = convert_answer(
        client.get("/api/ml/", params={"project": project_id}), list[_WireBackend]
    )
    matching = [backend for backend in backends if backend.model_version == version]
    if len(matching) != 1:
        return False
    (backend,) = matching
    if backend.title == version:
        return True
    if backend.title not in ours | {BACKEND_TITLE}:
        return False
    # Label Studio refuses a change of the title without the address.
    update_ml_backend(
        client, backend.id, project_id, backend.url, title=version, credentials=credentials
    )
    return True


def filter_item(name: str, kind: str, operator: str, value: object) -> dict[str, object]:
    """Returns one condition of a filter of the Data Manager."""
    return {"filter": f"filter:tasks:{name}", "type": kind, "operator": operator, "value": value}
