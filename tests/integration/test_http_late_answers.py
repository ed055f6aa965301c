"""POST /predict while the model is busy or loads: who is served first, what comes late."""

from __future__ import annotations

import copy
import json
import threading

import httpx

from backend.label_studio.client import LabelStudioClient
from calico_model.errors import CheckpointError
from tests.integration.conftest import BATCH, CLICK, payload, results, until, with_tasks


def test_what_is_not_done_in_time_is_answered_not_yet_and_kept(make_app, predictor):
    app = make_app(predict_budget_s=0.2)
    client = app.test_client()
    predictor.gate.clear()
    items = results(client, BATCH)
    assert items == [{"model_version": "fake-00000001"}] * len(BATCH["tasks"])
    predictor.gate.set()
    done = until(lambda: results(client, BATCH), lambda items: all("result" in i for i in items))
    assert all(item["result"] for item in done)
    assert len(predictor.seen) == len(BATCH["tasks"])


def a_studio(stored, *, fails=0):
    """Label Studio's API that keeps predictions, after refusing some."""
    refusals = iter(range(fails))

    def answer(request):
        if next(refusals, None) is not None:
            return httpx.Response(500, json={"detail": "not now"})
        if request.method == "GET":
            task = int(request.url.params["task"])
            kept = [one | {"id": n} for n, one in enumerate(stored) if one["task"] == task]
            return httpx.Response(200, json=kept)
        stored.append(json.loads(request.content))
        return httpx.Response(201, json={"id": len(stored)})

    return LabelStudioClient("http://studio", "a" * 40, transport=httpx.MockTransport(answer))


def test_late_answers_reach_label_studio_once(make_app, predictor):
    stored = []
    app = make_app(predict_budget_s=0.2, client=a_studio(stored))
    client = app.test_client()
    predictor.gate.clear()
    results(client, BATCH)
    predictor.gate.set()
    until(lambda: len(stored), lambda count: count == len(BATCH["tasks"]))
    assert {one["task"] for one in stored} == {task["id"] for task in BATCH["tasks"]}
    assert all(one["result"] and one["model_version"] == "fake-00000001" for one in stored)
    asked_again = results(client, BATCH)
    assert [item["result"] for item in asked_again] == [
        next(one["result"] for one in stored if one["task"] == task["id"])
        for task in BATCH["tasks"]
    ]
    assert len(stored) == len(BATCH["tasks"])


def test_a_late_answer_that_label_studio_has_meanwhile_is_not_sent(make_app, predictor):
    first, *others = BATCH["tasks"]
    stored = [{"task": first["id"], "result": [], "model_version": "fake-00000001"}]
    app = make_app(predict_budget_s=0.2, client=a_studio(stored))
    client = app.test_client()
    predictor.gate.clear()
    results(client, BATCH)
    predictor.gate.set()
    until(lambda: len(stored), lambda count: count == len(BATCH["tasks"]))
    assert {one["task"] for one in stored[1:]} == {task["id"] for task in others}


def test_answers_in_time_and_clicks_are_not_sent_again(make_app, predictor):
    stored = []
    app = make_app(client=a_studio(stored))
    client = app.test_client()
    results(client, BATCH)
    results(client, CLICK)
    outcomes = client.get("/metrics").text
    assert stored == []
    assert 'outcome="pushed"' not in outcomes


def test_a_click_in_vain_still_gets_a_result(make_app, predictor):
    client = make_app(predict_budget_s=0.1).test_client()
    predictor.gate.clear()
    (item,) = results(client, CLICK)
    assert item["result"] == []


def test_a_click_does_not_join_the_batch_that_looks_at_its_task(app, predictor):
    predictor.gate.clear()
    batch = with_tasks(["a.png", "b.png"])
    click = copy.deepcopy(batch)
    click["params"] = CLICK["params"]
    answers = {}

    def ask(name, body):
        answers[name] = results(app.test_client(), body)

    asking = [threading.Thread(target=ask, args=pair) for pair in (("batch", batch), ("it", click))]
    service = app.extensions["calico"].service
    asking[0].start()
    until(lambda: predictor.asked, lambda asked: asked == 1)
    asking[1].start()
    until(lambda: service.pending, lambda pending: pending == 2)
    predictor.gate.set()
    for thread in asking:
        thread.join(30)
    assert answers["batch"][0]["result"]
    assert answers["it"][0]["result"] == [], "this model outlines nothing where it is clicked"


def test_an_annotator_is_served_before_a_batch(app, predictor, images):
    predictor.gate.clear()
    client = app.test_client()
    batch = with_tasks(*[[f"{number}.png"] for number in range(20)])
    asking = threading.Thread(target=results, args=(client, batch))
    asking.start()
    until(lambda: len(images.fetched), lambda count: count == 2)
    opened = threading.Thread(target=results, args=(app.test_client(), with_tasks(["me.png"])))
    opened.start()
    service = app.extensions["calico"].service
    until(lambda: service.waiting, lambda waiting: waiting == 19)
    predictor.gate.set()
    asking.join(30)
    opened.join(30)
    assert images.fetched.index(("me.png",)) <= 3


def test_requests_wait_for_weights_that_are_still_loading(make_app, predictor):
    loaded = threading.Event()

    def load():
        assert loaded.wait(30)
        return predictor

    app = make_app(load=load, predict_budget_s=30)
    client = app.test_client()
    assert client.get("/health").get_json() == {"status": "UP", "model": "loading"}
    answers = []
    asking = threading.Thread(target=lambda: answers.append(results(client, BATCH)))
    asking.start()
    assert app.test_client().post("/setup", json=payload("setup_POST")).get_json() == {
        "model_version": None
    }
    loaded.set()
    asking.join(30)
    assert all(item["result"] for item in answers[0])


def test_still_loading_at_the_end_of_the_budget_is_not_yet(make_app, predictor):
    loaded = threading.Event()

    def load():
        assert loaded.wait(30)
        return predictor

    client = make_app(load=load, predict_budget_s=0.1).test_client()
    assert all("result" not in item for item in results(client, BATCH))
    loaded.set()


def test_corrupt_weights_are_named_and_only_stop_predictions(make_app):
    def load():
        raise CheckpointError("model.safetensors: expected sha256 00, got ff")

    app = make_app(load=load)
    client = app.test_client()
    until(lambda: client.get("/health").get_json()["model"], lambda state: state == "failed")
    for path, body in (("/predict", BATCH), ("/setup", payload("setup_POST"))):
        answer = client.post(path, json=body)
        assert answer.status_code == 503
        assert "expected sha256 00, got ff" in answer.get_json()["detail"]
    assert client.post("/webhook", json=payload("webhook_ANNOTATION_CREATED")).status_code == 201


def test_more_tasks_than_the_queue_holds_are_not_yet_and_may_be_asked_again(make_app, predictor):
    client = make_app(predict_queue=5).test_client()
    body = with_tasks(*[[f"{number}.png"] for number in range(20)])
    first = results(client, body)
    assert ["result" in item for item in first[:5]] == [True] * 5
    assert ["result" in item for item in first[10:]] == [False] * 10
    again = results(client, with_tasks(*[[f"{number}.png"] for number in range(10, 15)]))
    assert all("result" in item for item in again)
