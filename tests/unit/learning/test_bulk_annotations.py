"""What Label Studio copied from predictions in bulk is no evidence until a person submits it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.label_studio.event import missed_events, parse_events, read_annotation
from backend.learning.derivation import Derivation
from backend.learning.prototype_indexer import labeled_outlines
from backend.learning.repository import CorrectionRepository
from backend.learning.rows import Standing, StartingPoint
from backend.storage.store import open_store
from research.label_studio.sample import REPEATER_CONFIG
from tests.unit.learning.annotated import body, box, results

PROJECT, TASK = 7, 5
DRAWN = results(("a", box(10, 10, 30, 40), "lid"), ("b", box(0, 50, 5, 60), "rim"))
COPY = {"parent_prediction": 9, "lead_time": None, "updated_by": None, "last_action": None}
GOLDEN = Path(__file__).parents[2] / "golden" / "payloads"


class Predictions:
    """Label Studio's predictions: always the regions that were copied."""

    def find(self, prediction_id):
        return StartingPoint(prediction_id, "calico-tiny-1", json.dumps(DRAWN).encode())


@pytest.fixture
def learned(tmp_path):
    store = open_store(f"sqlite:///{tmp_path / 'calico.sqlite3'}", commit_timeout_s=30)
    yield CorrectionRepository(store)
    store.close()


def told(annotation_id=1, *, action="ANNOTATION_CREATED", second=0, drawn=DRAWN, **fields):
    """The event of one annotation of the task."""
    sent = body(annotation_id, drawn, action=action, second=second)
    sent["annotation"] |= {"lead_time": 3.0, "updated_by": 1} | fields
    if action == "ANNOTATIONS_CREATED":
        sent["annotation"], sent["task"] = [sent["annotation"]], [sent["task"]]
    return parse_events(json.dumps(sent).encode())[0]


def derive(repository, *events):
    repository.store.record_events(events)
    Derivation(repository, Predictions()).derive(PROJECT)
    (row,) = repository.tasks(PROJECT)
    return row


UNSEEN = {
    "the bulk action": told(action="ANNOTATIONS_CREATED", **COPY),
    "the bulk action, as Label Studio's API shows it later": told(
        action="ANNOTATION_UPDATED", **COPY
    ),
    "the bulk action of Enterprise": told(**COPY | {"last_action": "prediction", "updated_by": 1}),
    "propagated to other tasks": told(
        parent_annotation=4, last_action="propagated_annotation", parent_prediction=None
    ),
    "made in bulk mode": told(bulk_created=True, lead_time=None, updated_by=None),
}
SEEN = {
    "submitted": told(parent_prediction=9),
    "imported": told(action="ANNOTATIONS_CREATED", lead_time=None, updated_by=None, import_id=3),
    "copied, then updated": told(action="ANNOTATION_UPDATED", **COPY | {"updated_by": 1}),
    "sent by an older Label Studio": parse_events(json.dumps(body(1, DRAWN, parent=9)).encode())[0],
    "Enterprise, submitted": told(**COPY | {"last_action": "submitted"}),
}


@pytest.mark.parametrize("event", UNSEEN.values(), ids=UNSEEN.keys())
def test_a_copy_nobody_looked_at_counts_nowhere(learned, event):
    row = derive(learned, event)
    assert not read_annotation(event).was_seen
    assert (row.standing, row.is_unseen, row.tally.accepted) == (Standing.SKIPPED, True, 0)
    assert learned.outcomes(PROJECT) == ()
    assert Derivation(learned, Predictions()).load(PROJECT, TASK) is None
    assert labeled_outlines(read_annotation(event)) == []


@pytest.mark.parametrize("event", SEEN.values(), ids=SEEN.keys())
def test_what_a_person_made_counts(learned, event):
    row = derive(learned, event)
    assert read_annotation(event).was_seen
    assert (row.standing, row.tally.accepted + row.tally.added) == (Standing.CORRECTED, 2)
    assert len(labeled_outlines(read_annotation(event))) == 2


def test_a_copy_counts_once_a_person_submits_it(learned):
    assert derive(learned, told(action="ANNOTATIONS_CREATED", **COPY)).is_unseen
    later = COPY | {"lead_time": 4.2, "updated_by": 1}
    row = derive(learned, told(action="ANNOTATION_UPDATED", second=60, **later))
    assert (row.standing, row.tally.accepted) == (Standing.CORRECTED, 2)


def test_a_copy_does_not_outvote_or_agree_with_a_person(learned):
    own = told(1, drawn=DRAWN[:3], parent_prediction=9)
    row = derive(learned, own, told(2, action="ANNOTATIONS_CREATED", second=60, **COPY))
    assert (row.annotation_id, row.annotators, row.tally.removed) == (1, 1, 1)


def test_the_bulk_event_that_label_studio_really_sends_is_recognised():
    sent = json.loads((GOLDEN / "webhook_ANNOTATIONS_CREATED_bulk.json").read_text())["body"]
    (event,) = parse_events(json.dumps(sent).encode())
    assert not read_annotation(event).was_seen


def test_what_was_journalled_before_is_recognised_by_its_event():
    sent = body(1, DRAWN, parent=9, action="ANNOTATIONS_CREATED")
    (event,) = parse_events(json.dumps(sent).encode())
    assert not read_annotation(event).was_seen


def test_a_copy_found_in_label_studios_api_is_recognised():
    sent = body(1, DRAWN)
    task = sent["task"] | {"annotations": [sent["annotation"] | COPY]}
    (event,) = missed_events(
        json.dumps(task).encode(), project_id=PROJECT, label_config=REPEATER_CONFIG
    )
    assert not read_annotation(event).was_seen
