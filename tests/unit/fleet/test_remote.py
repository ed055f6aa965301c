"""A web server without a model answers what its replicas answer, and says so if there is none."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from backend.errors import FleetError, StoppedError
from backend.fleet.remote import RemoteFleet, RemoteTaskPredictor, affinity_key
from backend.fleet.replica_pool import Breaker, ReplicaPool
from backend.fleet.wire import AheadStep, ReplicaReport, decode_ahead, decode_job, encode_answer
from backend.label_studio.label_config import parse_label_config
from backend.serving.jobs import PredictionJob, PredictionResult, Problem
from backend.serving.metrics import Metrics
from backend.serving.model_host import ModelHost
from backend.types import Prompt, Task
from tests.unit.fleet.replica_double import HandleDouble, ReplicaDied
from tests.unit.label_studio.golden_files import config

TASK = Task(3, 7, ("a.png", "b.png"))
JOB = PredictionJob(TASK, parse_label_config(config("a_two_images")))
CLICK = replace(JOB, prompts=(Prompt("p", 0, (1.0, 1.0, 1.0, 1.0)),), is_interactive=True)
GOOD = PredictionResult(b'[{"id":"r"}]', 0.75, "v1", absent=(1,))
ABSENT = PredictionResult(
    b"", 0.0, "v1", Problem("FilesUnavailableError", "v1: not here", is_lasting=False)
)


def fixed(result):
    body = encode_answer(result, "weights")
    return lambda _number, _body: body


def dead(_number, _body):
    return ReplicaDied()


class FleetDouble:
    """Two pools and the predictor that asks them."""

    def __init__(self, click=dead, batch=dead, pauses=0):
        self.click, self.batch = HandleDouble(click), HandleDouble(batch)
        self.pauses_left = pauses
        self.metrics = Metrics()
        click_pool, batch_pool = (
            ReplicaPool(
                name,
                handle,
                try_s=0.0,
                pause=lambda _seconds: False,
                breaker=Breaker(refuse_after=99),
            )
            for name, handle in (("click", self.click), ("batch", self.batch))
        )
        host = ModelHost(lambda: RemoteFleet(click_pool, batch_pool))
        host.start()
        self.predictor = RemoteTaskPredictor(host, self.metrics, pause=self.is_closing)

    def is_closing(self, _seconds):
        self.pauses_left -= 1
        return self.pauses_left < 0

    def counted(self, outcome):
        return self.metrics.registry.get_sample_value("calico_tasks_total", {"outcome": outcome})


def test_the_answer_of_a_replica_is_the_answer():
    fleet = FleetDouble(click=fixed(GOOD))
    assert fleet.predictor.predict_task(JOB) == GOOD
    assert fleet.counted("predicted") == 1


def test_a_replica_gets_the_job_as_it_is():
    seen = []

    def answer(_number, body):
        seen.append(decode_job(body))
        return encode_answer(GOOD)

    FleetDouble(click=answer).predictor.predict_task(CLICK)
    assert seen == [CLICK]


def test_what_nobody_waits_for_goes_to_the_other_pool():
    fleet = FleetDouble(batch=fixed(GOOD))
    assert fleet.predictor.predict_task(replace(JOB, is_urgent=False)) == GOOD
    assert not fleet.click.asked


def test_all_about_a_task_goes_to_one_replica():
    fleet = FleetDouble(click=lambda _n, body: encode_answer(GOOD))
    fleet.predictor.predict_task(JOB)
    fleet.predictor.predict_task(CLICK)
    assert fleet.click.sessions == [affinity_key(TASK)] * 2


def test_the_key_is_of_the_project_and_its_images_and_nothing_else():
    keys = {affinity_key(replace(TASK, id=number)) for number in (1, None)}
    assert keys == {affinity_key(TASK)}
    others = (replace(TASK, project_id=8), replace(TASK, image_urls=("a.png", "c.png")))
    assert len(keys | {affinity_key(other) for other in others}) == 3


def test_without_any_replica_whoever_waits_reads_why():
    fleet = FleetDouble()
    result = fleet.predictor.predict_task(CLICK)
    assert result.problem is not None
    assert result.problem.error == "FleetError"
    assert "the last line" in result.problem.detail
    assert not result.problem.is_lasting
    assert fleet.counted("problem") == 1


def test_what_was_promised_is_asked_for_until_the_fleet_is_back():
    fleet = FleetDouble(
        batch=lambda number, _body: ReplicaDied() if number < 10 else encode_answer(GOOD), pauses=9
    )
    assert fleet.predictor.predict_task(replace(JOB, is_urgent=False)) == GOOD


def test_a_server_that_closes_stops_asking():
    fleet = FleetDouble(pauses=2)
    with pytest.raises(StoppedError):
        fleet.predictor.predict_task(replace(JOB, is_urgent=False))
    assert len(fleet.batch.asked) == 12  # three questions of four tries


def test_a_click_nobody_waits_for_is_given_up():
    fleet = FleetDouble(click=lambda _number, _body: None)
    result = fleet.predictor.predict_task(CLICK, lambda: False)
    assert result.problem is not None
    assert result.problem.error == "StoppedError"
    assert fleet.counted("cancelled") == 1


def test_another_replica_may_have_the_version_that_one_lacks():
    fleet = FleetDouble(click=lambda number, _body: encode_answer(ABSENT if number == 0 else GOOD))
    assert fleet.predictor.predict_task(JOB) == GOOD
    assert affinity_key(TASK) not in fleet.click.sessions[1:]


def test_a_version_that_no_replica_has_is_a_problem_of_the_task():
    assert FleetDouble(click=fixed(ABSENT)).predictor.predict_task(JOB) == ABSENT


def test_work_ahead_is_done_by_the_replica_that_will_be_clicked_on():
    seen = []

    def answer(_number, body):
        seen.append(decode_ahead(body).step)
        return msgspec.msgpack.encode(123)

    fleet, aside = FleetDouble(click=answer), []
    assert fleet.predictor.encode_ahead(TASK, lambda: aside.append(1)) == 123
    fleet.predictor.predict_ahead(TASK, lambda: aside.append(2))
    fleet.predictor.encode_with_sources(TASK, lambda: aside.append(3))
    assert seen == [AheadStep.ENCODE, AheadStep.PREDICT, AheadStep.SOURCES]
    assert fleet.click.sessions == [affinity_key(TASK)] * 3
    assert aside == [1, 2, 3]


def test_work_ahead_is_tried_once():
    fleet = FleetDouble()
    with pytest.raises(FleetError):
        fleet.predictor.encode_ahead(TASK, lambda: None)
    assert len(fleet.click.asked) == 1


def test_a_task_that_ends_every_replica_is_given_up_in_the_end():
    fleet = FleetDouble(pauses=1000)
    result = fleet.predictor.predict_task(replace(JOB, is_urgent=False))
    assert result.problem is not None
    assert not result.problem.is_lasting
    assert fleet.pauses_left > 900


def test_the_announced_weights_change_when_all_replicas_have_the_new_ones():
    weights = ["old", "old"]
    fleet = RemoteFleet(
        *(ReplicaPool(name, HandleDouble(dead), try_s=1.0) for name in ("click", "batch")),
        lambda: [ReplicaReport("1", one, 0, 0, "me") for one in weights],
    )
    seen = []
    for weights[:] in ([], ["old", "old"], ["new", "old"], ["new", "new"], []):
        seen.append((fleet.refresh(), fleet.version))
    assert seen == [(False, ""), (True, "old"), (True, "old"), (True, "new"), (True, "new")]
