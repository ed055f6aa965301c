"""Webhook bodies -> events for the journal, and journalled events -> annotations.

Depending on the event, Label Studio sends an object, a list under a singular key, or ids. A bulk
delivery becomes one event per annotation. Masks are not decoded here.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from backend.errors import InvalidEventError
from backend.label_schema import LabelSchema
from backend.label_studio.annotation import parse_drawing
from backend.label_studio.event_key import canonical, canonical_results, event_key, to_utc
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.task import parse_task
from backend.label_studio.wire import Id, decode, decode_body, decode_list
from backend.types import Annotation, Event, EventAction, Task

MAX_OBJECTS = 10_000

_WITH_ANNOTATIONS = (
    EventAction.ANNOTATION_CREATED,
    EventAction.ANNOTATION_UPDATED,
    EventAction.ANNOTATIONS_CREATED,
)
_COPYING = frozenset({"prediction", "propagated_annotation"})
"""Last actions of Label Studio Enterprise that create annotations nobody has looked at."""
_WITH_TASKS = (EventAction.TASKS_CREATED, EventAction.TASKS_DELETED)


class _WireProject(msgspec.Struct):
    id: Id
    label_config: str | None = None


class _WireReference(msgspec.Struct):
    id: Id


class _WireTask(msgspec.Struct):
    id: Id
    data: msgspec.Raw = msgspec.Raw(b"{}")


class _WireAnnotation(msgspec.Struct):
    """The fields of an annotation that are kept."""

    id: Id
    result: msgspec.Raw = msgspec.Raw(b"[]")
    updated_at: datetime | None = None
    task: Id | None = None
    completed_by: Id | _WireReference | None = None
    was_cancelled: bool | None = None
    ground_truth: bool | None = None
    parent_prediction: Id | None = None
    parent_annotation: Id | None = None
    lead_time: float | None = None
    last_action: str | None = None
    bulk_created: bool | None = None
    updated_by: object = msgspec.UNSET  # null if nobody has edited the annotation


class _WireBody(msgspec.Struct):
    action: str
    project: _WireProject | Id
    annotation: msgspec.Raw = msgspec.Raw()
    task: msgspec.Raw = msgspec.Raw()
    annotations: list[_WireReference] = []
    tasks: list[_WireReference] = []


class _WireAnnotatedTask(_WireTask):
    """A task of Label Studio's API, drafts left out."""

    annotations: list[msgspec.Raw] = []


class _TasksPayload(msgspec.Struct):
    task_ids: list[Id] = []


class _Payload(msgspec.Struct):
    """The part of an annotation event that the journal keeps; without the project's share token."""

    project: Id
    annotation: _WireAnnotation
    task: _WireTask | None = None
    label_config: str | None = None


def parse_events(body: bytes) -> tuple[Event, ...]:
    """Reads the body of POST /webhook.

    Returns:
        One event, or one per annotation of a bulk delivery.

    Raises:
        InvalidEventError: not JSON, a wrong type, or an event without its objects; the field
            names the place.
    """
    wire = decode_body(body, _WireBody, InvalidEventError)
    action = _action_of(wire.action)
    if action in _WITH_ANNOTATIONS:
        return _annotation_events(wire, action)
    project_id, config = _project_of(wire)
    if action is EventAction.ANNOTATIONS_DELETED:
        ids = [annotation.id for annotation in wire.annotations]
        if not 1 <= len(ids) <= MAX_OBJECTS:
            raise InvalidEventError(f"expected 1 to {MAX_OBJECTS} ids", field="annotations")
        return tuple(deletion_event(project_id, annotation_id) for annotation_id in ids)
    task_ids = [task.id for task in wire.tasks] if action in _WITH_TASKS else []
    is_project = action in (EventAction.PROJECT_CREATED, EventAction.PROJECT_UPDATED)
    content = {"action": wire.action, "task_ids": task_ids}
    payload = msgspec.json.encode(content | ({"label_config": config} if is_project else {}))
    # Pressing the training button twice is one event, even if the project changed in between.
    is_training = action is EventAction.START_TRAINING
    content_key = b"" if is_training else canonical(body, "body")
    key = event_key(wire.action, project_id, [(0, None, content_key)])
    return (Event(key=key, action=action, project_id=project_id, payload=payload),)


def read_annotation(event: Event) -> Annotation:
    """Reads the annotation of a journalled event; each mask is decoded when it is first needed.

    Raises:
        InvalidEventError: the event holds no annotation, or one without task or time.
        InvalidLabelConfigError: the event's labeling config cannot be used.
    """
    kept = _payload_of(event)
    wire = kept.annotation
    if wire.task is None or wire.updated_at is None:
        raise InvalidEventError("expected task and updated_at", field="annotation")
    drawing = parse_drawing(wire.result, read_schema(event))
    annotator = wire.completed_by
    was_skipped = bool(wire.was_cancelled)
    return Annotation(
        id=wire.id,
        task_id=wire.task,
        project_id=kept.project,
        annotator_id=annotator.id if isinstance(annotator, _WireReference) else annotator,
        updated_at=to_utc(wire.updated_at),
        was_skipped=was_skipped,
        parent_prediction_id=wire.parent_prediction,
        regions=() if was_skipped else drawing.regions,
        same_part=() if was_skipped else drawing.same_part,
        is_ground_truth=bool(wire.ground_truth),
        unread=() if was_skipped else drawing.unread,
        was_seen=_was_seen(event.action, wire),
        caption="" if was_skipped else drawing.caption,
    )


def was_seen(event: Event) -> bool:
    """Whether a person looked at the annotation of an event; see `Annotation.was_seen`.

    Raises:
        InvalidEventError: the event holds no annotation.
    """
    return _was_seen(event.action, _payload_of(event).annotation)


def _was_seen(action: EventAction, wire: _WireAnnotation) -> bool:
    """Whether a person looked at an annotation; False for a bulk copy that nobody edited since.

    Label Studio's "Create Annotations From Predictions" writes neither an editor nor a lead time;
    a person who submits or updates such an annotation becomes its editor. Imported annotations are
    not copies of a prediction and count as seen.
    """
    if wire.last_action is not None:  # Label Studio Enterprise states it
        return wire.last_action not in _COPYING
    is_copy = wire.parent_prediction is not None or wire.parent_annotation is not None
    if not (is_copy or wire.bulk_created):
        return True
    if wire.updated_by is msgspec.UNSET:  # journalled by a version that did not keep the field
        return action is not EventAction.ANNOTATIONS_CREATED
    return wire.updated_by is not None or bool(wire.lead_time)


def read_task(event: Event) -> Task:
    """Reads the task of a journalled annotation event.

    Raises:
        InvalidEventError: the event holds no annotation or no task.
        InvalidLabelConfigError: the event's labeling config cannot be used.
    """
    kept = _payload_of(event)
    if kept.task is None:
        raise InvalidEventError("expected the task", field="task")
    data = decode(kept.task.data, object, InvalidEventError, place="task.data")
    value = {"id": kept.task.id, "project": kept.project, "data": data}
    return parse_task(value, read_schema(event))


def read_schema(event: Event) -> LabelSchema:
    """Reads the labeling config an annotation was made with.

    Raises:
        InvalidEventError: the event holds no annotation or no labeling config.
        InvalidLabelConfigError: the labeling config cannot be used.
    """
    config = _payload_of(event).label_config
    if config is None:
        raise InvalidEventError("expected the labeling config", field="project.label_config")
    return parse_label_config(config)


def read_task_ids(event: Event) -> tuple[int, ...]:
    """Returns the task ids of a journalled TASKS_CREATED or TASKS_DELETED event."""
    return tuple(decode(event.payload, _TasksPayload, InvalidEventError).task_ids)


def missed_events(task: bytes, *, project_id: int, label_config: str) -> tuple[Event, ...]:
    """Turns a task of Label Studio's API into events with the present state of its annotations.

    Args:
        task: JSON object with id, data and annotations.
        project_id: where the task is.
        label_config: the project's labeling config.

    Returns:
        One ANNOTATION_UPDATED per annotation, as the webhook would have sent it.

    Raises:
        InvalidEventError: a wrong type; the field names the place.
    """
    wire = decode(task, _WireAnnotatedTask, InvalidEventError, place="task")
    project = _WireBody("", _WireProject(project_id, label_config))
    events = []
    for raw in wire.annotations:
        annotation = decode(raw, _WireAnnotation, InvalidEventError, place="annotation")
        annotation.task = wire.id
        kept = _WireTask(wire.id, wire.data)
        action = EventAction.ANNOTATION_UPDATED
        events.append(_annotation_event(project, action, annotation, kept))
    return tuple(events)


def annotation_keys(event: Event) -> frozenset[str]:
    """Returns the keys that the same state of an annotation has under each annotation action."""
    annotation = _payload_of(event).annotation
    result = canonical_results(annotation.result, "annotation.result")
    state = [(annotation.id, annotation.updated_at, result)]
    return frozenset(event_key(action, event.project_id, state) for action in _WITH_ANNOTATIONS)


def deletion_event(project_id: int, annotation_id: int) -> Event:
    """Returns the event of a deleted annotation, as the webhook would send it."""
    action = EventAction.ANNOTATIONS_DELETED
    return Event(
        key=event_key(action, project_id, [(annotation_id, None, b"")]),
        action=action,
        project_id=project_id,
        annotation_id=annotation_id,
        is_deletion=True,
    )


def _payload_of(event: Event) -> _Payload:
    if event.action not in _WITH_ANNOTATIONS:
        raise InvalidEventError(f"expected an annotation event, got {event.action}", field="action")
    return decode(event.payload, _Payload, InvalidEventError)


def _action_of(name: str) -> EventAction:
    return EventAction(name) if name in list(EventAction) else EventAction.OTHER


def _project_of(wire: _WireBody) -> tuple[int, str | None]:
    if isinstance(wire.project, _WireProject):
        return wire.project.id, wire.project.label_config
    return wire.project, None


def _annotation_events(wire: _WireBody, action: EventAction) -> tuple[Event, ...]:
    """Returns one event per annotation.

    `annotation` and `task` are objects, or both are lists under these singular keys.
    """
    annotations = _as_list(wire.annotation, "annotation")
    if not 1 <= len(annotations) <= MAX_OBJECTS:
        raise InvalidEventError(f"expected 1 to {MAX_OBJECTS} annotations", field="annotation")
    raw_tasks = _as_list(wire.task, "task") if bytes(wire.task) not in (b"", b"null") else []
    decoded = [decode(raw, _WireTask, InvalidEventError, place="task") for raw in raw_tasks]
    tasks = {task.id: task for task in decoded}
    only_task = next(iter(tasks.values())) if len(tasks) == 1 else None
    events = []
    for raw in annotations:
        annotation = decode(raw, _WireAnnotation, InvalidEventError, place="annotation")
        if annotation.task is None and only_task is not None:
            annotation.task = only_task.id
        events.append(_annotation_event(wire, action, annotation, tasks.get(annotation.task or -1)))
    return tuple(events)


def _annotation_event(
    wire: _WireBody, action: EventAction, annotation: _WireAnnotation, task: _WireTask | None
) -> Event:
    project_id, config = _project_of(wire)
    result = canonical_results(annotation.result, "annotation.result")
    if annotation.updated_at is not None:
        annotation.updated_at = to_utc(annotation.updated_at)
    return Event(
        key=event_key(action, project_id, [(annotation.id, annotation.updated_at, result)]),
        action=action,
        project_id=project_id,
        annotation_id=annotation.id,
        task_id=annotation.task,
        updated_at=annotation.updated_at,
        payload=msgspec.json.encode(_Payload(project_id, annotation, task, config)),
    )


def _as_list(raw: msgspec.Raw, field: str) -> list[msgspec.Raw]:
    if not bytes(raw):
        raise InvalidEventError("expected an object or a list of objects", field=field)
    if bytes(memoryview(raw)[:1]) == b"[":
        return decode_list(raw, InvalidEventError, place=field)
    return [raw]
