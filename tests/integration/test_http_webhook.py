"""POST /webhook over HTTP: committed before the answer, once, whatever Label Studio sends."""

from __future__ import annotations

import copy
import sqlite3

import pytest

from tests.integration.conftest import payload

NAMES = [
    "webhook_ANNOTATIONS_CREATED_bulk",
    "webhook_ANNOTATIONS_DELETED",
    "webhook_ANNOTATION_CREATED",
    "webhook_ANNOTATION_CREATED_skip",
    "webhook_ANNOTATION_CREATED_ui_rec_brushlabels",
    "webhook_ANNOTATION_CREATED_ui_rec_labels_brush",
    "webhook_ANNOTATION_UPDATED",
    "webhook_ANNOTATION_UPDATED_ui_b",
    "webhook_ANNOTATION_UPDATED_ui_c2",
    "webhook_PROJECT_UPDATED",
    "webhook_START_TRAINING",
    "webhook_TASKS_CREATED",
    "webhook_TASKS_DELETED",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_captured_event_is_journalled_once(app, client, name):
    body = payload(name)
    first = client.post("/webhook", json=body)
    again = client.post("/webhook", json=body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.get_json()["new"] >= 1
    assert again.get_json()["new"] == 0
    events = app.extensions["calico"].store.events(body["project"]["id"])
    assert len(events) == first.get_json()["events"]
    assert {stored.event.action.value for stored in events} == {body["action"]}


def test_the_event_is_on_disk_before_the_answer(client, tmp_path):
    client.post("/webhook", json=payload("webhook_ANNOTATION_CREATED"))
    with sqlite3.connect(tmp_path / "data" / "calico.sqlite3") as other:
        assert other.execute("SELECT count(*) FROM event_log").fetchone() == (1,)
    other.close()


def test_a_deletion_moves_the_head_whatever_comes_first(app, client):
    created = payload("webhook_ANNOTATION_CREATED")
    gone = copy.deepcopy(payload("webhook_ANNOTATIONS_DELETED"))
    gone["annotations"] = [{"id": created["annotation"]["id"]}]
    gone["project"] = created["project"]
    for body in (gone, created):
        assert client.post("/webhook", json=body).status_code == 201
    (head,) = app.extensions["calico"].store.heads(created["project"]["id"])
    assert head.is_deleted


def test_an_unknown_event_is_kept(client):
    body = {"action": "REVIEW_CREATED", "project": {"id": 1}}
    assert client.post("/webhook", json=body).status_code == 201


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b"\xff\xfe", "body"),
        (b"[" * 100_000, "body"),
        (b'{"action": 7, "project": {"id": 1}}', "action"),
        (b'{"action": "START_TRAINING"}', "body"),
        (b'{"action": "START_TRAINING", "project": {"id": "x"}}', "project.id"),
        (b'{"action": "ANNOTATION_CREATED", "project": {"id": 1}}', "annotation"),
        (b'{"action": "ANNOTATIONS_DELETED", "project": {"id": 1}}', "annotations"),
    ],
)
def test_a_broken_event_is_refused_with_its_field(client, body, field):
    answer = client.post("/webhook", data=body, headers={"X-Request-ID": "trace-1"})
    assert answer.status_code == 400
    problem = answer.get_json()
    assert problem["field"].startswith(field)
    assert problem["request_id"] == "trace-1"
    assert problem["detail"]
    assert problem["error"].endswith("Error")


def test_a_stuck_database_is_said_within_the_second(make_app, tmp_path):
    client = make_app(commit_timeout_ms=100).test_client()
    other = sqlite3.connect(tmp_path / "data" / "calico.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    answer = client.post("/webhook", json=payload("webhook_ANNOTATION_CREATED"))
    other.execute("ROLLBACK")
    other.close()
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"
    assert answer.get_json()["error"] == "BusyError"
    assert client.post("/webhook", json=payload("webhook_ANNOTATION_CREATED")).status_code < 300
