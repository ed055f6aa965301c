"""POST /predict over HTTP: real captures in, one item per task out, whatever one task holds."""

from __future__ import annotations

import copy

import pytest

from backend.label_studio import brush
from tests.integration.conftest import BATCH, CLICK, payload, post, results, with_tasks


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
