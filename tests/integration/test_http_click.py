"""Clicks and boxes over HTTP, with what Label Studio really sends, on a model that obeys them."""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from backend.label_studio import brush
from backend.label_studio.request import parse_predict_request
from backend.serving.jobs import PredictionJob
from backend.serving.notices import CHOOSE_LABEL
from backend.storage.store import Store
from calico_model.interactive.naming.closed_set import Named
from calico_model.types import ImageGroup, PartMask, RegionKind
from tests.doubles import proposal, refined
from tests.integration.conftest import payload
from tests.integration.fake_predictor import FakePredictor

SIZE = (480, 640)
CLOSED = Path(__file__).parents[2] / "label_config" / "cosegment_labels.xml"


@dataclass
class Clickable(FakePredictor):
    """Adds a square at positive clicks and takes it away at negative ones; a box is itself.

    Attributes:
        prompts: of what it was asked to outline.
        told: what it had said about the group, with each of them.
        named: how many regions it was asked to name.
        name_of_all: what it calls every region; None is unsure.
        found: what it has found by itself under every first click.
    """

    prompts: list = field(default_factory=list)
    told: list = field(default_factory=list)
    named: int = 0
    name_of_all: str | None = None
    found: PartMask | None = None

    def refine(self, group, image_index, prompt, group_prediction=None):
        self.prompts.append(prompt)
        self.told.append(group_prediction)
        mask = np.zeros(group.sizes_hw[image_index], bool)
        if prompt.previous is not None:
            mask |= prompt.previous
        if prompt.box is not None:
            x0, y0, x1, y1 = (round(value) for value in prompt.box)
            mask[y0:y1, x0:x1] = True
        for click in prompt.clicks:
            x, y = int(click.x), int(click.y)
            mask[max(y - 20, 0) : y + 20, max(x - 20, 0) : x + 20] = click.is_positive
        return refined(mask, iou=0.8, meant=None if prompt.previous is not None else self.found)

    def transfer(self, group, part, group_prediction):
        return [
            proposal(index, replace(part, image_index=index))
            for index in range(len(group))
            if index != part.image_index
        ]

    def name(self, group, outlines, closed, group_prediction=None):
        self.named += len(outlines)
        assert self.name_of_all is None or self.name_of_all in closed.vocabulary.labels
        return [Named(self.name_of_all, 0.2, (("seat", 0.2),)) for _ in outlines]


@pytest.fixture
def predictor():
    return Clickable()


@pytest.fixture
def refines():
    return True


class PhotoSized:
    """Images of the size that the captured prompts were made on."""

    fetched = 0

    def fetch_group(self, task):
        self.fetched += 1
        drawn = [np.full((*SIZE, 3), k, np.uint8) for k in range(len(task.image_urls))]
        return ImageGroup(tuple(drawn), tuple(f"i{k}" for k in range(len(drawn))))


@pytest.fixture
def images():
    return PhotoSized()


def asked(client, body):
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200
    (item,) = answer.get_json()["results"]
    assert "problem" not in item
    return item["result"]


def shapes(result):
    found = {}
    for one in result:
        if "rle" in one.get("value", {}):
            assert one["id"] not in found, "one mask per region"
            found[one["id"]] = one
    return found


def mask_of(shape):
    size_hw = shape["original_height"], shape["original_width"]
    return brush.decode_mask(shape["value"]["rle"], size_hw=size_hw)


@pytest.mark.parametrize("name", ["repeater", "twoimages", "valuelist"])
def test_captured_clicks_suggest_one_labelled_region_on_every_image(client, predictor, name):
    body = payload(f"predict_interactive_ui_keypoints_{name}")
    prompts = body["params"]["context"]["result"]
    result = asked(client, body)
    found = shapes(result)
    images = {(one["to_name"], one.get("item_index")) for one in found.values()}
    assert len(found) == len(images) == 2
    clicked = next(p for p in prompts if p["is_positive"])
    label = clicked["value"]["labels"]
    echoed = {one["id"] for one in result if label in one["value"].values()}
    assert echoed == found.keys()
    assert predictor.seen == [], "the three questions were asked"
    assert [c.is_positive for c in predictor.prompts[-1].clicks] == [
        p["is_positive"] for p in prompts
    ]


@pytest.mark.parametrize("name", ["repeater", "valuelist"])
def test_a_captured_box_becomes_a_region(client, predictor, name):
    body = payload(f"predict_interactive_ui_rectangle_{name}")
    (box, *_) = body["params"]["context"]["result"]
    found = shapes(asked(client, body))
    assert predictor.prompts[0].box is not None
    area = box["value"]["width"] * box["value"]["height"] / 1e4 * SIZE[0] * SIZE[1]
    assert any(abs(mask_of(shape).sum() - area) < 0.05 * area for shape in found.values())


def click(body, *places):
    """The request after clicks (name, x, y, is_positive); x and y in percent of the first image."""
    asked_for = copy.deepcopy(body)
    first = body["params"]["context"]["result"][0]
    asked_for["params"]["context"]["result"] = [
        first
        | {"id": name, "is_positive": is_positive}
        | {"value": first["value"] | {"x": x, "y": y}}
        for name, x, y, is_positive in places
    ]
    return asked_for


def test_more_clicks_replace_the_suggestion_and_images_are_fetched_once(client, images, predictor):
    body = payload("predict_interactive_ui_keypoints_repeater")
    one = shapes(asked(client, click(body, ("a", 20, 20, True))))
    two = shapes(asked(client, click(body, ("a", 20, 20, True), ("b", 60, 60, True))))
    assert one.keys() == two.keys()
    other = shapes(asked(client, click(body, ("c", 80, 20, True))))
    assert not other.keys() & one.keys()
    assert images.fetched == 1
    assert [len(prompt.clicks) for prompt in predictor.prompts] == [1, 2, 1]


def opened(body):
    """The request of a page that opens the task of a click."""
    asked_for = copy.deepcopy(body)
    asked_for["params"]["context"] = None
    return asked_for


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ready(app):
    app.extensions["calico"].host.wait(10)
    return app.test_client()


def parts_of(client):
    return client.application.extensions["calico"]


def flush(client):
    """Returns when everything that was to be kept is in the database."""
    parts_of(client).store.write(lambda connection: None, timeout_s=30)


def test_a_click_hears_what_the_model_found_also_at_another_server(client, predictor, make_app):
    body = payload("predict_interactive_ui_keypoints_repeater")
    parts_of(client).prewarmer._quiet_s = math.inf  # nothing is predicted ahead
    opened_here = asked(client, opened(body))
    clicked_here = asked(client, click(body, ("a", 20, 20, True)))
    flush(client)
    other = ready(make_app())
    parts_of(other).prewarmer._quiet_s = math.inf
    assert asked(other, opened(body)) == opened_here
    assert asked(other, click(body, ("a", 20, 20, True))) == clicked_here
    assert len(predictor.seen) == 1
    versions = [group_prediction.version for group_prediction in predictor.told]
    assert versions == [predictor.version] * 2
    for ours, theirs in zip(predictor.told[0].parts, predictor.told[1].parts, strict=True):
        assert (ours.mask == theirs.mask).all()


def test_a_group_whose_prediction_was_not_kept_is_predicted_ahead(client, predictor, make_app):
    body = payload("predict_interactive_ui_keypoints_repeater")
    keeper = ready(make_app(cached_predictions=0))
    parts_of(keeper).prewarmer._quiet_s = math.inf
    asked(keeper, click(body, ("a", 20, 20, True)))
    assert predictor.told == [None]
    parts_of(keeper).prewarmer._quiet_s = 0.0
    asked(keeper, opened(body) | {"tasks": [body["tasks"][0] | {"id": 4711}]})
    wait_until(lambda: len(predictor.seen) == 1)
    asked(keeper, click(body, ("c", 40, 70, True)))
    assert predictor.told[-1].version == predictor.version


def test_images_of_an_opened_task_are_prepared_for_clicks(client, predictor, monkeypatch):
    prepared = []
    monkeypatch.setattr(predictor, "prepare_clicks", lambda _, index: prepared.append(index))
    asked(client, opened(payload("predict_interactive_ui_keypoints_repeater")))
    wait_until(lambda: prepared == [0, 1])


def test_at_one_of_several_servers_a_click_waits_for_what_it_builds_on(
    client, predictor, monkeypatch
):
    monkeypatch.setattr(Store, "is_shared", True)
    asked(client, click(payload(REPEATER), ("a", 20, 20, True)))
    assert [told.version for told in predictor.told] == [predictor.version]


def task_predictor_of(client):
    return client.application.extensions["calico"].prewarmer._task_predictor


def test_a_region_of_the_draft_is_refined_in_place(client, predictor):
    body = payload("predict_interactive_ui_keypoints_repeater")
    first = asked(client, click(body, ("a", 20, 20, True)))
    here = [one for one in first if one["to_name"] == "image_0"]
    body["tasks"][0]["drafts"] = [{"id": 1, "result": here}]
    ((region_id, before),) = shapes(here).items()
    result = shapes(asked(client, click(body, ("later", 21, 21, False))))
    assert region_id in result
    assert mask_of(result[region_id]).sum() < mask_of(before).sum()
    assert (predictor.prompts[-1].previous == mask_of(before)).all()


def test_a_click_on_what_was_found_names_it_on_every_image(client, predictor):
    predictor.found = PartMask(0, RegionKind.COMMON_PART, "lid", np.zeros(SIZE, bool), score=0.9)
    names = texts(asked(client, click(payload(REPEATER), ("a", 20, 20, True))), "text")
    assert names == [{"text": ["lid"]}] * 2


def closed(body, *, label=None):
    """The request of a project with a closed label set; no label picked unless one is given."""
    asked_for = copy.deepcopy(body) | {"label_config": CLOSED.read_text(encoding="utf-8")}
    (point, *_) = asked_for["params"]["context"]["result"]
    point["value"] = {key: point["value"][key] for key in ("x", "y", "width")}
    group_prediction = []
    if label is not None:
        point["value"]["labels"] = [label]
        group_prediction = [point | {"type": "labels", "from_name": "part_0"}]
    asked_for["params"]["context"]["result"] = [point, *group_prediction]
    return asked_for


def spoken(result):
    """The results without those that empty a note."""
    return [one for one in result if one["value"].get("text") != []]


def texts(result, *keys):
    """What is said about each region, by tag."""
    group_prediction = {one["id"]: {} for one in spoken(result)}
    for one in spoken(result):
        for key in keys or ("labels", "choices"):
            if key in one["value"]:
                group_prediction[one["id"]][key] = one["value"][key]
    return list(group_prediction.values())


REPEATER = "predict_interactive_ui_keypoints_repeater"


def test_of_a_closed_set_the_chosen_label_wins(client, predictor):
    predictor.name_of_all = "leg"
    result = asked(client, closed(payload(REPEATER), label="seat"))
    assert texts(result) == [{"labels": ["seat"], "choices": ["common_part"]}] * 2
    assert predictor.named == 0


def test_of_a_closed_set_a_region_without_a_label_is_named_on_every_image(client, predictor):
    predictor.name_of_all = "leg"
    result = asked(client, closed(payload(REPEATER)))
    assert texts(result) == [{"labels": ["leg"], "choices": ["common_part"]}] * 2
    assert predictor.named == 1


def test_of_a_closed_set_an_unsure_region_is_not_sent_and_a_note_asks_for_a_label(
    client, predictor
):
    (told,) = spoken(asked(client, closed(payload(REPEATER))))
    assert (told["from_name"], told["value"]["text"]) == ("note_0", [CHOOSE_LABEL])
    assert predictor.named == 1


@pytest.mark.parametrize("name_regions", [True, False])
def test_a_region_whose_label_is_no_longer_offered_is_not_sent(make_app, name_regions):
    app = make_app(name_regions=name_regions)
    app.extensions["calico"].host.wait(10)
    body = closed(payload(REPEATER))
    (point,) = body["params"]["context"]["result"]
    first = asked(app.test_client(), closed(payload(REPEATER), label="seat"))
    drawn = [copy.deepcopy(one) for one in first if one["to_name"] == "image_0"]
    for one in drawn:
        if "labels" in one["value"]:
            one["value"]["labels"] = ["sofa"]
    body["tasks"][0]["drafts"] = [{"id": 1, "result": drawn}]
    result = asked(app.test_client(), body | {"params": {"context": {"result": [point]}}})
    assert drawn[0]["id"] not in shapes(result)
    assert texts(result, "text")[-1:] == [{"text": [CHOOSE_LABEL]}]


def test_without_a_click_or_a_question_nothing_is_suggested(client, predictor):
    body = payload(REPEATER)
    assert asked(client, body)
    made = len(predictor.prompts), predictor.asked
    assert asked(client, body | {"params": {"context": {"result": []}}}) == []
    assert (len(predictor.prompts), predictor.asked) == made


def test_a_click_on_a_region_picks_it_where_clicks_outline_nothing_anew(make_app):
    app = make_app(refine_clicks=False)
    app.extensions["calico"].host.wait(10)
    result = asked(app.test_client(), closed(click(payload(REPEATER), ("a", 50, 30, True))))
    assert shapes(result) == {}, '"lid" is no label of the set'


def many(body, count, **changes):
    return click(body, *((f"c{k}", k % 90 + 1, k % 80 + 1, True) for k in range(count)))


@pytest.mark.parametrize("count", [101, 1000])
def test_more_prompts_than_one_region_needs_are_refused(client, predictor, count):
    answer = client.post("/predict", json=many(payload(REPEATER), count))
    assert answer.status_code == 400
    assert answer.get_json()["field"] == "params.context.result"
    assert predictor.prompts == []


def test_as_many_boxes_are_refused_too(client, predictor):
    body = payload("predict_interactive_ui_rectangle_repeater")
    context = body["params"]["context"]
    context["result"] = [context["result"][0] | {"id": f"b{k}"} for k in range(101)]
    assert client.post("/predict", json=body).status_code == 400
    assert predictor.prompts == []


def test_clicks_hold_the_model_no_longer_than_they_may(make_app, predictor):
    """Time passes with every step of the model, a second each; 3 s are allowed."""
    client = make_app(click_budget_s=3.0).test_client()
    client.application.extensions["calico"].host.wait(10)
    task_predictor_of(client)._clicks._clock = lambda: float(len(predictor.prompts))
    result = asked(client, many(payload(REPEATER), 100))
    assert shapes(result)
    assert len(predictor.prompts) == 3
    again = asked(client, many(payload(REPEATER), 100))
    assert shapes(again).keys() == shapes(result).keys()
    assert len(predictor.prompts[-1].clicks) == 6


def test_clicks_of_a_client_that_left_are_given_up(app, predictor):
    """It leaves after the second step; the third is not taken."""

    class Leaving:
        def __call__(self):
            return len(predictor.prompts) < 2

    work = parse_predict_request(json.dumps(many(payload(REPEATER), 50)).encode())
    (task,) = work.tasks
    one = PredictionJob(task, work.schema, work.prompts, is_interactive=True)
    answer = task_predictor_of(app.test_client()).predict_task(one, Leaving())
    assert answer.problem.error == "StoppedError"
    assert len(predictor.prompts) == 2
