"""What is sent when an annotator submits is what Label Studio sends, and reads back unchanged."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pytest

from backend.errors import RequestError
from backend.label_studio.annotation import parse_regions
from backend.label_studio.event import parse_events, read_annotation, read_schema, read_task
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.request import parse_predict_request, parse_setup_request
from backend.label_studio.response import not_yet_item, predict_answer, predict_item
from backend.label_studio.result import render_prediction
from backend.learning.correction import diff
from backend.types import EventAction, RegionOrigin
from calico_model.types import GroupPrediction, PartMask, RegionKind
from research.label_studio.editor import (
    Drawn,
    SimulatedProject,
    annotation_event,
    open_config,
    predict_request,
    read_answer,
    setup_request,
    training_event,
)
from tests.unit.label_studio.golden_files import payload

PROJECT = SimulatedProject(4, open_config(list(RegionKind)))
SCHEMA = parse_label_config(PROJECT.label_config)
URLS = ("/data/local-files/?d=a.png", "/data/local-files/?d=b.png")
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def part(index, label, first=4, kind=RegionKind.COMMON_PART, part_id=None):
    mask = np.zeros((24, 32), bool)
    mask[first : first + 8, 4:12] = True
    return PartMask(index, kind, label, mask, part_id=part_id, score=0.5)


def answer(*parts):
    prediction = GroupPrediction(parts, "calico-tiny-1")
    rendered = render_prediction(prediction, SCHEMA, sizes_hw=[(24, 32)] * 2)
    item = predict_item(rendered.result, score=rendered.score, version=rendered.version)
    return rendered.result, predict_answer([item])


def submitted(*drawn):
    body = annotation_event(
        PROJECT,
        3,
        URLS,
        drawn,
        schema=SCHEMA,
        annotation_id=5,
        updated_at=NOON,
        parent_prediction_id=8,
    )
    return body, parse_events(json.dumps(body).encode())[0]


@pytest.mark.parametrize("place", ["annotation", "task", "project"])
def test_events_have_the_keys_of_a_captured_one(place):
    ours, _ = submitted(Drawn("x", part(0, "lid"), RegionOrigin.MANUAL))
    theirs = payload("webhook_ANNOTATION_CREATED_ui_rec_labels_brush")["body"]
    assert set(ours) == set(theirs)
    assert set(ours[place]) <= set(theirs[place])
    assert place != "annotation" or set(ours[place]) == set(theirs[place])


def test_results_have_the_form_of_captured_ones():
    ours, _ = submitted(
        Drawn("x", part(0, "lid"), RegionOrigin.PREDICTION),
        Drawn("y", part(1, "rim"), RegionOrigin.MANUAL),
    )
    captured = payload("webhook_ANNOTATION_CREATED_ui_rec_labels_brush")["body"]["annotation"][
        "result"
    ]
    forms = {
        (one["type"], one["origin"] == "manual", tuple(sorted(one)), tuple(sorted(one["value"])))
        for one in captured
        if "value" in one
    }
    for one in ours["annotation"]["result"]:
        is_manual = one["origin"] == "manual"
        form = (one["type"], is_manual, tuple(sorted(one)), tuple(sorted(one["value"])))
        assert form in forms or one["type"] == "textarea", form


def test_an_annotation_reads_back():
    drawn = (
        Drawn("x", part(0, "lid"), RegionOrigin.PREDICTION),
        Drawn("y", part(0, "box", kind=RegionKind.COMMON_OBJECT), RegionOrigin.PREDICTION_CHANGED),
        Drawn("z", part(1, "rim", first=9), RegionOrigin.MANUAL),
    )
    _, event = submitted(*drawn)
    found = read_annotation(event)
    assert (found.id, found.task_id, found.project_id) == (5, 3, 4)
    assert (found.updated_at, found.parent_prediction_id) == (NOON, 8)
    assert read_task(event).image_urls == URLS
    assert read_schema(event) == SCHEMA
    for region, one in zip(found.regions, drawn, strict=True):
        assert (region.id, region.origin) == (one.id, one.origin)
        assert (region.kind, region.label) == (one.part.kind, one.part.label)
        assert (region.image_index, region.score) == (
            one.part.image_index,
            None if one.origin is RegionOrigin.MANUAL else 0.5,
        )
        assert np.array_equal(region.mask, one.part.mask)


def test_what_is_left_alone_is_accepted_byte_for_byte():
    result, body = answer(part(0, "lid", part_id="0"), part(1, "lid", part_id="0"))
    shown = read_answer(body, SCHEMA)
    assert shown.version == "calico-tiny-1"
    assert len(shown.same_part) == 1
    drawn = [
        Drawn(one.id, part(one.image_index, one.label), RegionOrigin.PREDICTION)
        for one in shown.regions
    ]
    _, event = submitted(*drawn)
    after = read_annotation(event).regions
    before = parse_regions(result, SCHEMA)
    assert [a.encoding for a in after] == [b.encoding for b in before]
    outcomes = diff(before, after).outcomes
    assert [outcome.change.value for outcome in outcomes] == [0, 0]


def test_a_task_that_is_not_done_has_no_prediction():
    assert read_answer(predict_answer([not_yet_item("v")]), SCHEMA) is None
    empty = predict_answer([predict_item(b"[]", score=0.0, version="v")])
    assert read_answer(empty, SCHEMA).regions == ()
    with pytest.raises(RequestError, match="one item"):
        read_answer(predict_answer([]), SCHEMA)


def test_requests_are_understood():
    asked = parse_predict_request(json.dumps(predict_request(PROJECT, 3, URLS)).encode())
    assert (asked.project_id, asked.is_interactive, asked.schema) == (4, False, SCHEMA)
    assert [(task.id, task.image_urls) for task in asked.tasks] == [(3, URLS)]
    assert parse_setup_request(json.dumps(setup_request(PROJECT)).encode()).project_id == 4
    (event,) = parse_events(json.dumps(training_event(PROJECT)).encode())
    assert (event.action, event.project_id) == (EventAction.START_TRAINING, 4)


def test_a_project_offers_only_the_kinds_it_annotates():
    schema = parse_label_config(open_config([RegionKind.COMMON_PART, RegionKind.UNIQUE_PART]))
    assert set(schema.kind.values) == {RegionKind.COMMON_PART, RegionKind.UNIQUE_PART}
