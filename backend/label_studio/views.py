"""Tabs of Label Studio's Data Manager: which tasks they list, in which order, with what columns."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from backend.label_studio.client import LabelStudioClient
from backend.label_studio.connection import convert_answer
from backend.label_studio.group_project import PICTURE_COLUMNS
from backend.label_studio.untouched import filter_item

# The Data Manager shows some 14 letters of a title.
REVIEW_TITLE = "Review first"
UNREVIEWED_TITLE = "Unreviewed"

_HIDDEN = (
    "inner_id",
    "completed_at",
    "cancelled_annotations",
    "annotators",
    "annotations_results",
    "annotations_ids",
    "predictions_model_versions",
    "predictions_results",
    "file_upload",
    "storage_filename",
    "created_at",
    "updated_at",
    "updated_by",
    "avg_lead_time",
    "draft_exists",
)
_HIDDEN_BY_DEFAULT = [
    f"tasks:{name}"
    for name in (
        "inner_id",
        "annotations_results",
        "annotations_ids",
        "predictions_score",
        "predictions_model_versions",
        "predictions_results",
        "file_upload",
        "storage_filename",
        "created_at",
        "updated_at",
        "updated_by",
        "avg_lead_time",
        "draft_exists",
    )
]
# As the tab that Label Studio shows by itself.
_DEFAULT_DATA = {
    "title": "Default",
    "type": "list",
    "target": "tasks",
    "hiddenColumns": {"explore": _HIDDEN_BY_DEFAULT, "labeling": _HIDDEN_BY_DEFAULT},
}


class _WireView(msgspec.Struct):
    id: int
    data: dict[str, object] = {}


def put_review_view(client: LabelStudioClient, project_id: int) -> str:
    """Writes the tab of tasks that nobody has annotated, the lowest score first.

    Label Studio knows the score of a task from the predictions of the version that is served.

    Returns:
        The address of the tab.

    Raises:
        LabelStudioError: refused or not reached.
    """
    items = [
        filter_item("total_annotations", "Number", "equal", 0),
        filter_item("cancelled_annotations", "Number", "equal", 0),
        filter_item("predictions_score", "Number", "empty", False),
    ]
    return _put(client, project_id, REVIEW_TITLE, items, ["tasks:predictions_score"])


def put_unreviewed_view(client: LabelStudioClient, project_id: int) -> str:
    """Writes the tab of tasks whose annotations no person has submitted.

    Returns:
        The address of the tab.

    Raises:
        LabelStudioError: refused or not reached.
    """
    items = [
        filter_item("total_annotations", "Number", "greater", 0),
        # Label Studio measures the time of everything that is submitted in the editor.
        filter_item("avg_lead_time", "Number", "empty", True),
    ]
    return _put(client, project_id, UNREVIEWED_TITLE, items, ["tasks:predictions_score"])


def _put(
    client: LabelStudioClient,
    project_id: int,
    title: str,
    items: Sequence[dict[str, object]],
    ordering: Sequence[str],
) -> str:
    """Writes a tab in place of the one with the same title; returns its address."""
    answer = client.get("/api/dm/views/", params={"project": project_id})
    views = convert_answer(answer, list[_WireView])
    if not views:
        # Label Studio shows a tab with all tasks only as long as nobody has made one.
        client.post("/api/dm/views/", {"project": project_id, "data": _DEFAULT_DATA})
    present = next((view for view in views if view.data.get("title") == title), None)
    hidden = [f"tasks:{name}" for name in _HIDDEN]
    data = {
        "title": title,
        "type": "list",
        "target": "tasks",
        "filters": {"conjunction": "and", "items": list(items)},
        "ordering": list(ordering),
        "hiddenColumns": {"explore": hidden, "labeling": hidden},
        **PICTURE_COLUMNS,
    }
    body = {"project": project_id, "data": data}
    if present is None:
        made = client.post("/api/dm/views/", body)
    else:
        made = client.patch(f"/api/dm/views/{present.id}/", body)
    number = convert_answer(made, _WireView).id
    return f"{client.url}/projects/{project_id}/data?tab={number}"
