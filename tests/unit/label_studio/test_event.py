"""Webhook bodies that Label Studio 1.23 really sends, and the annotations in them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from backend.errors import InvalidEventError
from backend.label_studio.event import parse_events, read_annotation
from backend.types import EventAction, RegionOrigin
from calico_model.types import RegionKind
from tests.unit.label_studio.golden_files import body, names, payload


def changed(name, change) -> bytes:
    sent = payload(name)["body"]
    change(sent)
    return json.dumps(sent).encode()


@pytest.mark.parametrize("name", names("webhook_"))
def test_captured_event_is_known(name):
    sent = payload(name)["body"]
    (event,) = parse_events(body(name))
    assert event.action.value == sent["action"]
    assert event.project_id == sent["project"]["id"]
    assert len(event.key) == 64
    assert b"REDACTED-PROJECT-TOKEN" not in event.payload


@pytest.mark.parametrize("name", names("webhook_"))
def test_repeated_delivery_has_the_same_key_however_it_is_spaced(name):
    sent = payload(name)["body"]
    (first,) = parse_events(json.dumps(sent, indent=1).encode())
    (again,) = parse_events(json.dumps(sent, sort_keys=True, separators=(",", ":")).encode())
    assert first.key == again.key


def test_keys_of_all_captured_events_differ():
    keys = [parse_events(body(name))[0].key for name in names("webhook_")]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("field", "value"),
    [("updated_at", "2026-11-20T17:00:00Z"), ("id", 99), ("result", [])],
)
def test_any_change_of_an_annotation_is_a_new_event(field, value):
    name = "webhook_ANNOTATION_UPDATED"
    changed_body = changed(name, lambda sent: sent["annotation"].update({field: value}))
    assert parse_events(changed_body)[0].key != parse_events(body(name))[0].key


def test_lists_under_singular_keys_become_one_event_each():
    def double(sent):
        second = json.loads(json.dumps(sent["annotation"][0])) | {"id": 17, "task": 330}
        sent["annotation"].append(second)
        sent["task"].append(sent["task"][0] | {"id": 330})

    first, second = parse_events(changed("webhook_ANNOTATIONS_CREATED_bulk", double))
    assert (first.annotation_id, first.task_id) == (16, 329)
    assert (second.annotation_id, second.task_id) == (17, 330)
    assert read_annotation(second).regions[0].kind is RegionKind.COMMON_OBJECT


def test_deletion_of_several_is_one_event_each():
    sent = changed(
        "webhook_ANNOTATIONS_DELETED", lambda sent: sent.update(annotations=[{"id": 3}, {"id": 4}])
    )
    events = parse_events(sent)
    assert [(event.annotation_id, event.is_deletion) for event in events] == [(3, True), (4, True)]
    assert events[0].key != events[1].key


def test_skip_is_an_annotation_without_regions():
    annotation = read_annotation(parse_events(body("webhook_ANNOTATION_CREATED_skip"))[0])
    assert annotation.was_skipped
    assert annotation.regions == ()


def test_submitted_corrections_of_the_editor():
    (event,) = parse_events(body("webhook_ANNOTATION_CREATED_ui_rec_labels_brush"))
    annotation = read_annotation(event)
    assert (annotation.id, annotation.task_id, annotation.project_id) == (9, 319, 45)
    assert (annotation.parent_prediction_id, annotation.annotator_id) == (347, 1)
    assert annotation.updated_at == event.updated_at
    assert [(r.id, r.image_index, r.label, r.origin) for r in annotation.regions] == [
        ("b0", 0, "body", RegionOrigin.PREDICTION),
        ("b1", 1, "body", RegionOrigin.PREDICTION_CHANGED),
        ("u0", 0, "spout", RegionOrigin.PREDICTION),
        ("b2", 2, "body", RegionOrigin.PREDICTION),
        ("B6P0Lli0k-", 0, None, RegionOrigin.MANUAL),
    ]
    assert annotation.same_part == (("b0", "b1"), ("b1", "b2"))
    assert [r.mask.shape for r in annotation.regions] == [r.size_hw for r in annotation.regions]


def test_pages_of_a_value_list_are_told_apart():
    annotation = read_annotation(parse_events(body("webhook_ANNOTATION_UPDATED_ui_b"))[0])
    assert [r.image_index for r in annotation.regions] == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 0]


def test_same_masks_in_both_layouts():
    first, second = (
        read_annotation(parse_events(body(f"webhook_ANNOTATION_UPDATED_ui_{layout}"))[0])
        for layout in ("b", "c2")
    )
    theirs = {region.id: region for region in second.regions}
    for region in first.regions[:10]:
        assert np.array_equal(region.mask, theirs[region.id].mask)


def test_unknown_event_is_kept_as_other():
    (event,) = parse_events(b'{"action": "LABEL_LINK_CREATED", "project": {"id": 3}}')
    assert (event.action, event.project_id) == (EventAction.OTHER, 3)


@pytest.mark.parametrize(
    "more",
    [{"link": 1}, {"link": 2}, {"project": {"id": 3, "title": "b"}}],
)
def test_events_that_say_different_things_about_one_project_differ(more):
    first = {"action": "LABEL_LINK_CREATED", "project": {"id": 3, "title": "a"}}
    keys = {parse_events(json.dumps(sent).encode())[0].key for sent in (first, first | more)}
    assert len(keys) == 2


def test_a_project_with_another_title_is_another_event():
    name = "webhook_PROJECT_UPDATED"
    renamed = changed(name, lambda sent: sent["project"].update(title="other"))
    assert parse_events(renamed)[0].key != parse_events(body(name))[0].key


def test_training_button_has_one_key_however_the_project_changed():
    name = "webhook_START_TRAINING"
    renamed = changed(name, lambda sent: sent["project"].update(title="other"))
    assert parse_events(renamed)[0].key == parse_events(body(name))[0].key


def test_an_annotation_that_was_neither_skipped_nor_not_is_not_skipped():
    name = "webhook_ANNOTATION_UPDATED_ui_b"
    sent = changed(name, lambda sent: sent["annotation"].update(was_cancelled=None))
    assert read_annotation(parse_events(sent)[0]).was_skipped is False


def test_repeated_training_button_has_one_key():
    keys = {parse_events(body("webhook_START_TRAINING"))[0].key for _ in range(2)}
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        (b"", "body"),
        (b"nonsense", "body"),
        (b"[]", "body"),
        (b"{}", "body"),
        (b'{"action": 3, "project": 1}', "action"),
        (b'{"action": "START_TRAINING"}', "body"),
        (b'{"action": "START_TRAINING", "project": {"id": "x"}}', "project.id"),
        (b'{"action": "ANNOTATION_CREATED", "project": {"id": 1}}', "annotation"),
        (b'{"action": "ANNOTATION_CREATED", "project": 1, "annotation": 5}', "annotation"),
        (b'{"action": "ANNOTATION_CREATED", "project": 1, "annotation": []}', "annotation"),
        (
            b'{"action": "ANNOTATION_CREATED", "project": 1, "annotation": {"id": null}}',
            "annotation.id",
        ),
        (
            b'{"action": "ANNOTATION_CREATED", "project": 1, '
            b'"annotation": {"id": 1, "updated_at": "yesterday"}}',
            "annotation.updated_at",
        ),
        (b'{"action": "ANNOTATIONS_DELETED", "project": 1}', "annotations"),
        (b'{"action": "ANNOTATIONS_DELETED", "project": 1, "annotations": [1]}', "annotations[0]"),
        (b'{"action": "TASKS_DELETED", "project": 1, "tasks": {}}', "tasks"),
    ],
)
def test_body_of_the_wrong_form_names_the_field(sent, field):
    with pytest.raises(InvalidEventError) as caught:
        parse_events(sent)
    assert caught.value.field == field


def test_event_without_annotation_cannot_be_read_as_one():
    with pytest.raises(InvalidEventError, match="START_TRAINING"):
        read_annotation(parse_events(body("webhook_START_TRAINING"))[0])


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+12:00", "9999-12-31T23:59:59-12:00"])
def test_time_beyond_the_calendar_is_refused(time):
    body = {"action": "ANNOTATION_UPDATED", "project": 1}
    body |= {"annotation": {"id": 1, "task": 2, "updated_at": time}}
    with pytest.raises(InvalidEventError) as caught:
        parse_events(json.dumps(body).encode())
    assert caught.value.field == "annotation.updated_at"
