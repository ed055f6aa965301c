"""POST /predict over HTTP: real captures in, one item per task out, whatever one task holds."""

from __future__ import annotations

import copy
import json
import threading
import time

import httpx
import pytest

from backend.label_studio import brush
from backend.label_studio.client import LabelStudioClient
from calico_model.errors import CheckpointError
from tests.integration.conftest import payload

BATCH = payload("predict_batch")
CLICK = payload("predict_interactive_ui_keypoints_repeater")


def post(client, body):
    return client.post("/predict", json=body)


def results(client, body):
    answer = post(client, body)
    assert answer.status_code == 200, answer.text
    return answer.get_json()["results"]


def with_tasks(*image_lists):
    body = copy.deepcopy(BATCH)
    template = body["tasks"][0]
    body["tasks"] = [
        {**template, "id": number, "data": {"images": list(urls)}}
        for number, urls in enumerate(image_lists, start=100)
    ]
    return body


@pytest.mark.parametrize(
    "name",
    [
        "predict_batch",
        "predict_open_task",
        "predict_test",
        "predict_interactive_api",
        "predict_interactive_ui_keypoints_repeater",
        "predict_interactive_ui_keypoints_twoimages",
        "predict_interactive_ui_keypoints_valuelist",
        "predict_interactive_ui_rec_labels_brush",
        "predict_interactive_ui_rectangle_repeater",
        "predict_interactive_ui_rectangle_valuelist",
    ],
)
def test_every_captured_request_gets_one_result_list_per_task(client, name):
    body = payload(name)
    items = results(client, body)
    assert len(items) == len(body["tasks"])
    for item in items:
        assert isinstance(item["result"], list)
        assert item["model_version"] == "fake-00000001"
        assert 0 <= item["score"] <= 1


def test_masks_have_the_size_of_their_image(client):
    (item, *_) = results(client, BATCH)
    shapes = [result for result in item["result"] if "rle" in result.get("value", {})]
    assert len(shapes) == 2 * 2 + 1
    for shape in shapes:
        assert (shape["original_height"], shape["original_width"]) == (48, 64)
        mask = brush.decode_mask(shape["value"]["rle"], size_hw=(48, 64))
        assert mask.any()


def test_one_bad_image_empties_only_its_own_task(client, predictor):
    items = results(client, with_tasks(["a.png"], ["b.png", "damaged.png"], ["c.png"]))
    assert [bool(item["result"]) for item in items] == [True, False, True]
    assert items[1]["problem"]["error"] == "UnreadableMediaError"
    assert "tasks[1].data.images[1]" in items[1]["problem"]["detail"]
    assert len(predictor.seen) == 2


@pytest.mark.parametrize("name", ["missing.png", "forbidden.png"])
def test_an_image_that_a_setting_or_its_host_may_bring_back_is_asked_for_again(client, name):
    items = results(client, with_tasks(["a.png"], [name]))
    # Label Studio stores an item with an empty result and never asks for that task again.
    assert items[0]["result"]
    assert "result" not in items[1]
    assert "tasks[1].data.images[0]" in items[1]["problem"]["detail"]


@pytest.mark.parametrize("urls", [[], ["x.png"] * 9, [""], [7], [None]])
def test_an_unusable_task_empties_only_itself(client, urls):
    items = results(client, with_tasks(["a.png"], urls))
    assert items[0]["result"]
    assert items[1]["result"] == []
    assert "tasks[1].data.images" in items[1]["problem"]["detail"]


def test_a_model_that_breaks_on_one_group_spoils_only_that_and_may_be_asked_again(
    client, predictor
):
    predictor.fails_on = 13
    first = results(client, with_tasks(["narrow.png"], ["wide.png"]))
    assert "result" not in first[0]
    assert first[0]["problem"]["error"] == "PredictionFailed"
    assert first[1]["result"]
    predictor.fails_on = None
    again = results(client, with_tasks(["narrow.png"], ["wide.png"]))
    assert again[0]["result"]


def test_no_tasks_no_results(client):
    assert results(client, with_tasks()) == []


def test_asking_again_needs_no_model(client, predictor):
    first = results(client, BATCH)
    again = results(client, BATCH)
    assert again == first
    assert len(predictor.seen) == len(BATCH["tasks"])


def test_other_pixels_at_the_same_address_are_looked_at_again(client, predictor, images):
    results(client, with_tasks(["a.png"]))
    draw = images._draw
    images._draw = lambda url: draw(url) + 1
    results(client, with_tasks(["a.png"]))
    assert len(predictor.seen) == 2


def test_kept_answers_survive_a_restart(make_app, predictor):
    first = make_app()
    before = results(first.test_client(), BATCH)
    first.extensions["calico"].close()
    again = make_app()
    assert results(again.test_client(), BATCH) == before
    assert len(predictor.seen) == len(BATCH["tasks"])


def test_answers_of_other_code_are_not_given_again(make_app, predictor, monkeypatch):
    first = make_app()
    results(first.test_client(), BATCH)
    first.extensions["calico"].close()
    monkeypatch.setattr("backend.serving.rendering.RENDERING_VERSION", 1_000_000)
    results(make_app().test_client(), BATCH)
    assert len(predictor.seen) == 2 * len(BATCH["tasks"])


def test_answers_of_other_weights_are_not_given_again(make_app, predictor):
    first = make_app()
    results(first.test_client(), BATCH)
    first.extensions["calico"].close()
    predictor.version = "fake-00000002"
    again = results(make_app().test_client(), BATCH)
    assert {item["model_version"] for item in again} == {"fake-00000002"}
    assert len(predictor.seen) == 2 * len(BATCH["tasks"])


def test_a_click_suggests_the_thing_on_every_image_without_relations(client, predictor):
    body = copy.deepcopy(CLICK)
    results(client, body)
    for prompt in body["params"]["context"]["result"]:
        prompt |= {"original_width": 64, "original_height": 48}
        if prompt["is_positive"]:
            prompt["value"] |= {"x": 50.0, "y": 30.0}
    (item,) = results(client, body)
    assert len(predictor.seen) == 1
    shown = [result for result in item["result"] if "rle" in result.get("value", {})]
    assert {result["to_name"] for result in shown} == {
        f"image_{index}" for index in range(len(body["tasks"][0]["data"]["images"]))
    }
    assert not [result for result in item["result"] if result["type"] == "relation"]
    (same,) = results(client, body)
    assert same == item


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


def test_a_task_that_is_asked_for_twice_in_one_request_is_answered_once(client):
    body = copy.deepcopy(BATCH)
    body["tasks"].append(body["tasks"][0])
    *items, repeated = results(client, body)
    assert all(item["result"] for item in items)
    assert "result" not in repeated  # Label Studio stores nothing for it


def test_what_became_of_a_batch_is_remembered(app, client):
    body = with_tasks(["a.png"], ["damaged.png"], [])
    project = int(body["project"].split(".")[0])
    results(client, body)
    status = app.extensions["calico"].progress.status(project)
    assert (status.total, status.done, status.waiting, status.failed) == (3, 1, 0, 2)
    assert [failed.task_id for failed in status.problems] == [101, 102]
    assert "tasks[1].data.images[0]" in status.problems[0].detail


def test_a_task_that_somebody_opens_is_no_batch(app, client):
    results(client, with_tasks(["a.png"]))
    project = int(BATCH["project"].split(".")[0])
    assert app.extensions["calico"].progress.status(project) is None
    client.post("/predict?background=1", json=with_tasks(["a.png"]))
    assert app.extensions["calico"].progress.status(project).done == 1


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


def test_a_click_with_more_results_than_anybody_draws_is_refused_by_name(client):
    body = copy.deepcopy(CLICK)
    context = body["params"]["context"]
    first = context["result"][0]
    context["result"] = [first] * 100 + [first | {"type": "labels"}] * 1_901
    answer = post(client, body)
    assert answer.status_code == 400
    assert answer.get_json()["field"] == "params.context.result"
    context["result"].pop()
    assert post(client, body).status_code == 200


def test_a_config_without_masks_is_refused_with_the_tag_to_add(client):
    body = copy.deepcopy(BATCH)
    body["label_config"] = '<View><Image name="i" value="$image"/></View>'
    answer = post(client, body)
    assert answer.status_code == 400
    problem = answer.get_json()
    assert problem["field"] == "label_config"
    assert "Brush" in problem["detail"]


def until(read, is_right, seconds=20.0):
    """Reads again and again until the value is right."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not is_right(value := read()):
        assert time.monotonic() < deadline, f"still {json.dumps(value, default=str)[:500]}"
        pause.wait(0.01)
    return value
