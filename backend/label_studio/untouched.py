"""Tasks of a project that nobody has begun, and the version Label Studio orders them by.

Label Studio's own filters choose the tasks: without annotations, skips and drafts, and without a
prediction of a version yet. So asking again after whatever interruption goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from backend.label_studio.client import LabelStudioClient
from backend.label_studio.connection import convert_answer
from backend.label_studio.onboarding import BACKEND_TITLE, update_ml_backend
from backend.label_studio.task import parse_task
from backend.types import LabelSchema, Task

PAGE_SIZE = 20


@dataclass(frozen=True)
class UntouchedPage:
    """A page of tasks.

    Attributes:
        tasks: by rising id; one that cannot be looked at carries its problem.
        total: how many there are, this page included.
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
) -> UntouchedPage:
    """Returns the next tasks nobody has begun that have no prediction of a version.

    Args:
        client: Label Studio.
        project_id: whose tasks.
        schema: of its labeling config.
        version: as predictions are stamped.
        after: id of the last task that was seen.
        only: ask about this one task.

    Raises:
        LabelStudioError: an answer that is refused or of another form.
    """
    items = [
        _filter("total_annotations", "Number", "equal", 0),
        _filter("cancelled_annotations", "Number", "equal", 0),
        _filter("draft_exists", "Boolean", "equal", False),
        _filter("predictions_model_versions", "List", "not_contains", [version]),
        _filter("id", "Number", "greater", after)
        if only is None
        else _filter("id", "Number", "equal", only),
    ]
    query = {"filters": {"conjunction": "and", "items": items}, "ordering": ["tasks:id"]}
    answer = client.get(
        "/api/tasks/",
        params={
            "project": project_id,
            "page": 1,
            "page_size": PAGE_SIZE,
            "fields": "task_only",
            "resolve_uri": "false",
            "query": msgspec.json.encode(query).decode(),
        },
    )
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

    It compares the version of a prediction with a field of the project that holds either one fixed
    version or the title of the backend that is asked for predictions. Only where title and version
    are one word are new predictions fetched and tasks ordered by their score; so the backend is
    given its version as title, and Label Studio copies it into the project. A title that somebody
    chose is left alone.

    Args:
        client: Label Studio.
        project_id: which project.
        version: what its predictions are stamped with from now on.
        ours: titles this backend may have had before.
        credentials: user name and password Label Studio has to send.

    Returns:
        Whether it is ordered so now.

    Raises:
        LabelStudioError: refused, or not reached.
    """
    # This call makes Label Studio ask /setup, so that `model_version` is what we announce.
    found = convert_answer(
        client.get("/api/ml/", params={"project": project_id}), list[_WireBackend]
    )
    mine = [one for one in found if one.model_version == version]
    if len(mine) != 1:
        return False
    (backend,) = mine
    if backend.title == version:
        return True
    if backend.title not in ours | {BACKEND_TITLE}:
        return False
    # The address as it is: a change of the title alone is refused.
    update_ml_backend(
        client, backend.id, project_id, backend.url, title=version, credentials=credentials
    )
    return True


def _filter(name: str, kind: str, operator: str, value: object) -> dict[str, object]:
    return {"filter": f"filter:tasks:{name}", "type": kind, "operator": operator, "value": value}
