"""A job and its answer come over the wire as they went in."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest

from backend.errors import FleetError, InvalidRleError
from backend.fleet.wire import (
    FORMAT,
    AheadStep,
    ReplicaReport,
    decode_ahead,
    decode_answer,
    decode_job,
    decode_report,
    encode_ahead,
    encode_answer,
    encode_job,
    encode_report,
)
from backend.label_schema import LabelValue
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.request import parse_predict_request
from backend.serving.jobs import PredictionJob, PredictionResult, Problem, answer_key
from backend.storage.versions import AdapterVersion, VersionStatus
from backend.types import Prompt, Region, RegionOrigin, Task, TextPrompt
from calico_model.types import RegionKind
from tests.unit.label_studio.golden_files import body as golden_body
from tests.unit.label_studio.golden_files import config

CONFIGS = ("a_four_images", "a_two_images", "b_valuelist", "c_repeater_plain")
CLICKS = (
    "predict_interactive_ui_keypoints_repeater",
    "predict_interactive_ui_keypoints_twoimages",
    "predict_interactive_ui_keypoints_valuelist",
    "predict_interactive_ui_rectangle_repeater",
)
VERSION = AdapterVersion(
    id="v2",
    project_id=7,
    parent_id="v1",
    uri="7/v2",
    sha256="ab" * 32,
    nbytes=9_100_000,
    status=VersionStatus.CURRENT,
    upto_seq=41,
    corrections=12,
    base="base",
    created_at=datetime(2026, 11, 30, 12, 0, 0, 250_000, tzinfo=UTC),
)


def job(**changes):
    task = Task(3, 7, ("a.png", "b.png"), ("data.a", "data.b"), (LabelValue("lid", ("cover",)),))
    return replace(PredictionJob(task, parse_label_config(config("a_four_images"))), **changes)


def region(**changes):
    mask = np.zeros((6, 9), np.bool_)
    mask[2:5, 3:7] = True
    given = {
        "id": "r1",
        "image_index": 1,
        "size_hw": (6, 9),
        "kind": RegionKind.COMMON_PART,
        "label": "lid",
        "origin": RegionOrigin.PREDICTION_CHANGED,
        "score": 0.75,
        "load_mask": lambda: mask,
        "encoding": b"[1,2,3]",
        "is_linked": True,
        "more_labels": ("cover",),
        "is_outline": True,
        "colour": "green",
    }
    return Region(**(given | changes))


def sent(one):
    return decode_job(encode_job(one))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_kept_answer_is_found_by_the_replica_under_the_same_key(name):
    one = job(schema=parse_label_config(config(name)))
    one.schema.slot(1)  # what a schema remembers is not sent
    assert sent(one).schema == one.schema
    keys = [answer_key(each, "c", version="v", code="x") for each in (one, sent(one))]
    assert keys[0] == keys[1]


@pytest.mark.parametrize("name", CLICKS)
def test_golden_clicks_arrive_whole(name):
    request = parse_predict_request(golden_body(name))
    one = job(
        task=request.tasks[0],
        schema=request.schema,
        prompts=request.prompts,
        canvas=request.canvas,
        is_interactive=True,
    )
    arrived = sent(one)
    assert arrived.prompts == one.prompts
    assert arrived.task == one.task
    for before, after in zip(one.canvas, arrived.canvas, strict=True):
        assert np.array_equal(before.mask, after.mask)


def test_every_field_of_a_job_is_sent_but_what_the_predictor_itself_fills_in():
    one = job(
        prompts=(Prompt("p", 0, (1.5, 2.0, 1.5, 2.0), False, RegionKind.UNIQUE_PART, "lid"),),
        is_interactive=True,
        version=replace(VERSION, gate={"f1": 0.5}, reason="better"),
        wants_descriptor=True,
        question=TextPrompt("q", 1, "the lid", (0.0, 0.0, 4.0, 5.0), True),
        is_urgent=False,
    )
    arrived = sent(one)
    filled_in = {"ids", "reply", "notes", "canvas", "version"}
    for field in fields(PredictionJob):
        if field.name not in filled_in:
            assert getattr(arrived, field.name) == getattr(one, field.name), field.name
    assert arrived.version == VERSION  # verdicts of the gate are not sent


def test_a_drawn_region_keeps_its_pixels_and_all_that_is_known_of_it():
    (arrived,) = sent(job(canvas=(region(),))).canvas
    for field in fields(Region):
        if field.name not in {"load_mask", "load_runs", "encoding"}:
            assert getattr(arrived, field.name) == getattr(region(), field.name), field.name
    assert np.array_equal(arrived.mask, region().mask)
    assert np.array_equal(arrived.runs, region().runs)


def test_equal_masks_stay_equal_and_others_differ():
    one, same, other = (
        sent(job(canvas=(region(encoding=encoding),))).canvas[0].encoding
        for encoding in (b"[1,2,3]", b"[1,2,3]", b"[1,2,4]")
    )
    assert one == same != other
    assert sent(job(canvas=(region(encoding=b""),))).canvas[0].encoding == b""


def test_a_mask_that_cannot_be_decoded_says_so_at_the_replica_too():
    def broken():
        raise InvalidRleError("rle: 3 bits are missing")

    (arrived,) = sent(job(canvas=(region(load_mask=broken, load_runs=broken),))).canvas
    with pytest.raises(InvalidRleError, match="3 bits are missing"):
        _ = arrived.mask


@pytest.mark.parametrize(
    "result",
    [
        PredictionResult(b'[{"id":"a"}]', 0.5, "v1", absent=(1, 2)),
        PredictionResult(b"", 0.0, None, Problem("MediaError", "a: gone", is_lasting=False)),
    ],
)
def test_an_answer_comes_back_as_it_was(result):
    answer = decode_answer(encode_answer(result, "calico-tiny@1"))
    assert answer.result == result
    assert answer.weights == "calico-tiny@1"


def test_how_a_group_looks_keeps_every_bit():
    vector = np.random.default_rng(0).normal(size=16).astype(np.float32)
    result = decode_answer(encode_answer(PredictionResult(b"[]", 1.0, "v", descriptor=vector)))
    arrived = result.result.descriptor
    assert arrived is not None
    assert arrived.tobytes() == vector.tobytes()
    arrived += 1  # not a view of the message


def test_work_ahead_and_reports_arrive():
    ahead = decode_ahead(encode_ahead(job().task, AheadStep.SOURCES))
    assert (ahead.task, ahead.step) == (job().task, AheadStep.SOURCES)
    report = ReplicaReport("0.2", "calico-tiny@1", 3, 2, "host:1")
    assert decode_report(encode_report(report)) == report


@pytest.mark.parametrize("body", [b"", bytes((FORMAT + 1,)) + encode_job(job())[1:]])
def test_another_format_is_refused_in_one_sentence(body):
    with pytest.raises(FleetError, match="another release"):
        decode_job(body)


@pytest.mark.parametrize("cut", [2, 40, -1])
def test_a_cut_message_is_an_error_of_the_fleet(cut):
    with pytest.raises(FleetError, match="damaged"):
        decode_job(encode_job(job())[:cut])


def test_a_field_that_a_later_release_adds_is_passed_over():
    body = encode_answer(PredictionResult(b"[]", 0.5, "v1"))
    values = [*msgspec.msgpack.decode(body[1:]), "new"]
    later = body[:1] + msgspec.msgpack.encode(values)
    assert decode_answer(later).result.score == 0.5
