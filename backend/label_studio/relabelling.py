"""Annotations, drafts and predictions of Label Studio in which a label gets another name.

Every value but the label's text is written back as it was read. Saving an annotation makes Label
Studio throw away the drafts that belong to it, so such an annotation is left for later.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from backend.label_studio.client import JsonObject, LabelStudioClient, LabelStudioProject
from backend.label_studio.connection import convert_answer
from backend.label_studio.event import missed_events, was_seen
from backend.label_studio.history import fetch_drawn
from backend.label_studio.label_rename import LabelRenaming
from backend.types import Event
from calico_model.vocabulary import identity

# Keys of a value that list labels; a tag for choices writes the last one.
_LABEL_KEYS = (
    "labels",
    "brushlabels",
    "bitmasklabels",
    "polygonlabels",
    "rectanglelabels",
    "ellipselabels",
    "vectorlabels",
    "keypointlabels",
)
_CHOICE_KEYS = ("choices",)


class _WireDrawn(msgspec.Struct):
    """An annotation, a draft or a prediction; `annotation` is that of a draft."""

    id: int
    result: list[object] | None = None
    annotation: int | None = None


@dataclass(frozen=True)
class Renamed:
    """One annotation, draft or prediction, and its results with the new name.

    Attributes:
        id: Label Studio's id.
        result: all its results.
        before: the event of an annotation's present state; None for others.
    """

    id: int
    result: list[object]
    before: Event | None = None


@dataclass(frozen=True)
class RelabelledTask:
    """What has to be written to one task.

    Attributes:
        id: Label Studio's id.
        data: as imported.
        annotations: submitted ones that can be saved.
        drafts: unsaved work of any annotator.
        predictions: stored ones.
        held: ids of annotations with unsaved changes, which saving would throw away.
        unseen: ids of copies of predictions that nobody has looked at: saved by anybody, they would
            count as looked at.
    """

    id: int
    data: object = None
    annotations: tuple[Renamed, ...] = ()
    drafts: tuple[Renamed, ...] = ()
    predictions: tuple[Renamed, ...] = ()
    held: tuple[int, ...] = ()
    unseen: tuple[int, ...] = ()

    @property
    def has_work(self) -> bool:
        """Whether the old name is anywhere in the task."""
        return any((self.annotations, self.drafts, self.predictions, self.held, self.unseen))


def renamed_results(results: Sequence[object], renaming: LabelRenaming) -> tuple[list[object], int]:
    """Returns results with the new name, and how many of them had the old one."""
    keys = _CHOICE_KEYS if renaming.is_choice else _LABEL_KEYS
    renamed, count = [], 0
    for result in results:
        changed = result
        if isinstance(result, dict) and result.get("from_name") in renaming.tags:
            value = result.get("value")
            if isinstance(value, dict) and (new := _renamed_value(value, keys, renaming)):
                changed, count = {**result, "value": {**value, **new}}, count + 1
        renamed.append(changed)
    return renamed, count


def _renamed_value(
    value: Mapping[str, object], keys: Collection[str], renaming: LabelRenaming
) -> dict[str, object]:
    """The lists of a value that change; a label is never twice in one."""
    changed: dict[str, object] = {}
    for key in keys:
        labels = value.get(key)
        if isinstance(labels, list) and any(_is_old(label, renaming) for label in labels):
            names = [renaming.new if _is_old(label, renaming) else label for label in labels]
            changed[key] = [name for at, name in enumerate(names) if name not in names[:at]]
    return changed


def _is_old(label: object, renaming: LabelRenaming) -> bool:
    return isinstance(label, str) and identity(label) == renaming.old


def set_config(client: LabelStudioClient, project_id: int, config: str) -> None:
    """Replaces the labeling config of a project.

    Raises:
        LabelStudioError: refused or not reached.
    """
    client.patch(f"/api/projects/{project_id}/", {"label_config": config})


def tasks_to_relabel(
    client: LabelStudioClient,
    project: LabelStudioProject,
    renaming: LabelRenaming,
    task_ids: Sequence[int],
    *,
    with_drafts: Collection[int],
) -> Iterator[RelabelledTask]:
    """Yields what has to be written to some tasks; a deleted task is left out.

    Args:
        client: Label Studio.
        project: of the tasks, with a config that can be used.
        renaming: of a label.
        task_ids: a few tasks; all their masks are in memory at the same time.
        with_drafts: the tasks of them that have unsaved work.

    Raises:
        LabelStudioError: refused, or an answer of another form.
        RequestError: an annotation that cannot be read.
    """
    for task in fetch_drawn(client, project.id, task_ids):
        annotations = _renamed(task.annotations, renaming)
        predictions = _renamed(task.predictions, renaming)
        drafts: tuple[Renamed, ...] = ()
        held: frozenset[int] = frozenset()
        if annotations or task.id in with_drafts:
            found = convert_answer(
                client.get(f"/api/tasks/{task.id}/drafts"), list[dict[str, object]]
            )
            drafts = _renamed(found, renaming)
            wires = [convert_answer(value, _WireDrawn) for value in found]
            held = frozenset(one.annotation for one in wires if one.annotation is not None)
        events = _events_of(project, task.id, task.data, task.annotations) if annotations else ()
        present = {event.annotation_id: event for event in events}
        unseen = {one.id for one in annotations if not was_seen(present[one.id])}
        yield RelabelledTask(
            id=task.id,
            data=task.data,
            annotations=tuple(
                replace(one, before=present[one.id])
                for one in annotations
                if one.id not in held | unseen
            ),
            drafts=drafts,
            predictions=predictions,
            held=tuple(one.id for one in annotations if one.id in held),
            unseen=tuple(one.id for one in annotations if one.id in unseen - held),
        )


def _renamed(values: Sequence[object], renaming: LabelRenaming) -> tuple[Renamed, ...]:
    found = []
    for wire in (convert_answer(value, _WireDrawn) for value in values):
        result, count = renamed_results(wire.result or [], renaming)
        if count:
            found.append(Renamed(wire.id, result))
    return tuple(found)


def _events_of(
    project: LabelStudioProject, task_id: int, data: object, annotations: Sequence[object]
) -> tuple[Event, ...]:
    """The events that Label Studio sends of annotations in their present state."""
    task = msgspec.json.encode({"id": task_id, "data": data, "annotations": annotations})
    return missed_events(task, project_id=project.id, label_config=project.label_config)


def save_annotation(
    client: LabelStudioClient, project: LabelStudioProject, task: RelabelledTask, new: Renamed
) -> Event:
    """Saves an annotation; returns the event that Label Studio sends of it.

    Raises:
        LabelStudioError: refused, or an answer of another form.
    """
    answer = client.patch(f"/api/annotations/{new.id}/", {"result": new.result})
    saved = convert_answer(answer, JsonObject)
    (event,) = _events_of(project, task.id, task.data, [saved])
    return event


def save_draft(client: LabelStudioClient, new: Renamed) -> None:
    """Saves a draft; it stays its annotator's.

    Raises:
        LabelStudioError: refused or not reached.
    """
    client.patch(f"/api/drafts/{new.id}/", {"result": new.result})


def save_prediction(client: LabelStudioClient, task_id: int, new: Renamed) -> None:
    """Saves a stored prediction.

    Raises:
        LabelStudioError: refused or not reached.
    """
    client.patch(f"/api/predictions/{new.id}/", {"task": task_id, "result": new.result})


def count_labels_anew(client: LabelStudioClient, project_id: int) -> None:
    """Makes Label Studio count the labels of annotations and drafts again.

    It does not notice that a draft has a label no more, and then refuses to change the config.

    Raises:
        LabelStudioError: refused or not reached.
    """
    client.post(f"/api/projects/{project_id}/summary/reset/", {})
