"""Annotations that were copied from predictions in bulk: makes them, finds them, deletes them.

Label Studio's action *Create Annotations From Predictions* writes neither an editor nor a lead
time, which tells a copy from an annotation that a person made. Learning leaves a copy out until a
person submits it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backend.label_studio.client import LabelStudioClient
from backend.label_studio.event import missed_events, read_annotation
from backend.label_studio.history import fetch_annotated

_ACTION = "predictions_to_annotations"


@dataclass(frozen=True)
class StoredAnnotation:
    """An annotation as far as its origin goes.

    Attributes:
        id: Label Studio's id.
        task_id: its task.
        prediction_id: the prediction it started from, or None.
        was_seen: whether a person submitted or changed it.
    """

    id: int
    task_id: int
    prediction_id: int | None
    was_seen: bool


def copy_predictions(
    client: LabelStudioClient, project_id: int, task_ids: Sequence[int], version: str
) -> None:
    """Makes an annotation of every prediction of a version on some tasks.

    Raises:
        LabelStudioError: refused or not reached.
    """
    body = {
        "selectedItems": {"all": False, "included": list(task_ids)},
        "project": str(project_id),
        "model_version": version,
    }
    params: dict[str, str | int] = {"id": _ACTION, "project": project_id}
    client.post("/api/dm/actions", body, params=params)


def stored_annotations(
    client: LabelStudioClient, project_id: int, config: str, task_ids: Sequence[int]
) -> tuple[StoredAnnotation, ...]:
    """Returns the annotations of some tasks, skipped ones included.

    Args:
        client: Label Studio.
        project_id: project of the tasks.
        config: the project's labeling config, XML.
        task_ids: the tasks.

    Raises:
        LabelStudioError: refused, or an answer of another form.
        RequestError: an annotation that cannot be read.
    """
    found = []
    for task in fetch_annotated(client, project_id, task_ids).values():
        for event in missed_events(task, project_id=project_id, label_config=config):
            annotation = read_annotation(event)
            found.append(
                StoredAnnotation(
                    annotation.id,
                    annotation.task_id,
                    annotation.parent_prediction_id,
                    annotation.was_seen,
                )
            )
    return tuple(found)


def delete_annotation(client: LabelStudioClient, annotation_id: int) -> None:
    """Deletes an annotation; Label Studio tells the backend of it.

    Raises:
        LabelStudioError: refused or not reached.
    """
    client.delete(f"/api/annotations/{annotation_id}/")
