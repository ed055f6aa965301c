"""A replica answers what the model in a server would, once for equal questions."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from backend.errors import FleetError, MediaUnavailableError, NotReadyError, StoppedError
from backend.fleet.deployments import FleetSize, replica_variables
from backend.fleet.replica import ModelReplica
from backend.fleet.wire import (
    AheadStep,
    decode_answer,
    decode_report,
    encode_ahead,
    encode_job,
)
from backend.label_studio.label_config import parse_label_config
from backend.serving.jobs import PredictionJob
from backend.settings import load_settings
from backend.types import Prompt, Task
from calico_model.errors import CheckpointError
from calico_model.types import ImageGroup
from tests.integration.fake_predictor import FakePredictor
from tests.unit.fleet.local_fleet import LocalResponse, result_of
from tests.unit.label_studio.golden_files import config

TASK = Task(3, 7, ("a.png", "b.png"), ("data.a", "data.b"))
JOB = PredictionJob(TASK, parse_label_config(config("a_two_images")))
CLICK = replace(JOB, prompts=(Prompt("p", 0, (9.0, 9.0, 9.0, 9.0)),), is_interactive=True)


class Images:
    def __init__(self):
        self.fetched = 0

    def fetch_group(self, task):
        self.fetched += 1
        if "gone.png" in task.image_urls:
            raise MediaUnavailableError("gone", field=task.image_fields[0])
        image = np.zeros((48, 64, 3), np.uint8)
        return ImageGroup((image, image + 1), ("a", "b"))


@pytest.fixture
def model():
    return FakePredictor()


@pytest.fixture
def images():
    return Images()


@pytest.fixture
def replica(tmp_path, model, images):
    settings = load_settings(data_dir=tmp_path, refine_clicks=False)
    one = ModelReplica(settings, load=lambda: model, images=images)
    yield one
    model.gate.set()
    one.close()


def ask(replica, job):
    return decode_answer(result_of(replica.predict(encode_job(job))))


def ahead(replica, task, step=AheadStep.ENCODE):
    return msgspec.msgpack.decode(result_of(replica.work_ahead(encode_ahead(task, step))))


def test_a_replica_answers_with_the_weights_it_has(replica, model):
    answer = ask(replica, JOB)
    assert answer.result.problem is None
    assert b'"lid"' in answer.result.regions
    assert (answer.result.version, answer.weights) == (model.version, model.version)


def test_a_task_that_cannot_be_used_is_a_problem_and_no_failure(replica):
    answer = ask(replica, replace(JOB, task=replace(TASK, image_urls=("gone.png",))))
    assert answer.result.problem is not None
    assert answer.result.problem.error == "MediaUnavailableError"


def test_equal_questions_are_computed_once(replica, model, images):
    model.gate.clear()
    responses = [LocalResponse(replica, "predict", encode_job(JOB)) for _ in range(3)]
    while replica._queue.pending == 0 or model.asked == 0:
        threading.Event().wait(0.01)
    waiters = replica._queue._unsettled[JOB.key]
    while waiters.waiters < 3:
        threading.Event().wait(0.01)
    model.gate.set()
    bodies = {response.result(timeout_s=30) for response in responses}
    assert len(bodies) == 1
    assert (model.asked, images.fetched) == (1, 1)


def test_a_click_that_is_taken_back_is_given_up(replica, model):
    model.gate.clear()
    first = LocalResponse(replica, "predict", encode_job(JOB))
    while model.asked == 0:
        threading.Event().wait(0.01)
    click = LocalResponse(replica, "predict", encode_job(CLICK))
    click.cancel()
    with pytest.raises(asyncio.CancelledError):
        click.result(timeout_s=30)
    model.gate.set()
    assert decode_answer(first.result(timeout_s=30)).result.problem is None


def test_work_ahead_tells_how_many_bytes_of_pixels_it_took(replica, images):
    assert ahead(replica, TASK) == 2 * 48 * 64 * 3
    assert ahead(replica, TASK, AheadStep.SOURCES) == 0
    assert images.fetched == 1


def test_work_ahead_of_a_task_that_cannot_be_used_is_left_out(replica):
    assert ahead(replica, replace(TASK, image_urls=("gone.png",))) == 0


def test_work_ahead_ends_when_it_is_taken_back(replica, model):
    model.gate.clear()
    busy = LocalResponse(replica, "predict", encode_job(JOB))
    while model.asked == 0:
        threading.Event().wait(0.01)
    work = LocalResponse(replica, "work_ahead", encode_ahead(TASK, AheadStep.ENCODE))
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        work.result(timeout_s=30)
    model.gate.set()
    busy.result(timeout_s=30)


def test_a_message_of_another_release_is_refused(replica):
    with pytest.raises(FleetError, match="another release"):
        result_of(replica.predict(b"\x07"))


def test_a_replica_says_what_it_is(replica, model):
    report = decode_report(result_of(replica.report()))
    assert (report.weights, report.waiting, report.adapters) == (model.version, 0, 0)
    replica.check_health()


def test_weights_that_cannot_be_used_end_the_replica_at_once(tmp_path):
    def broken():
        raise CheckpointError("no weights here")

    with pytest.raises(NotReadyError, match="no weights here"):
        ModelReplica(load_settings(data_dir=tmp_path), load=broken, images=Images())


def test_a_closed_replica_answers_nobody(tmp_path, model, images):
    one = ModelReplica(load_settings(data_dir=tmp_path), load=lambda: model, images=images)
    one.close()
    with pytest.raises((StoppedError, FleetError, RuntimeError)):
        ask(one, JOB)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"click": 1}, "--click: expected at least 2, .*; got 1"),
        ({"click": 3, "most_click": 2}, "--most-click: expected at least 3, .*; got 2"),
        ({"batch": -1}, "--batch: expected at least 0, .*; got -1"),
        ({"batch": 2, "most_batch": 1}, "--most-batch: expected at least 2, .*; got 1"),
        ({"most_batch": 0}, "--most-batch: expected at least 1, .*; got 0"),
    ],
)
def test_a_size_without_a_spare_is_refused_by_its_option(wrong, said):
    with pytest.raises(FleetError, match=said):
        FleetSize(**wrong)


def test_a_replica_gets_the_settings_but_those_of_the_web_server(tmp_path, monkeypatch):
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "secret")
    settings = load_settings(
        data_dir=tmp_path,
        port=9191,
        database_url="postgresql+psycopg://a:b@c/d",
        fleet_address="127.0.0.1:6390",
        image_hosts=("a.example", "b.example"),
        relations=True,
    )
    assert replica_variables(settings) == {
        "CALICO_DATA_DIR": str(tmp_path),
        "CALICO_DATABASE_URL": "postgresql+psycopg://a:b@c/d",
        "CALICO_IMAGE_HOSTS": "a.example,b.example",
        "CALICO_RELATIONS": "true",
        "LABEL_STUDIO_API_KEY": "secret",
    }
