"""What a server remembers and how much it does at once are settings, and they reach their parts."""

from __future__ import annotations

import time

import pytest

from backend.serving.loaded_model import load_base_model
from backend.settings import load_settings
from tests.integration.conftest import payload
from tests.integration.test_http_click import REPEATER, Clickable, PhotoSized, click, ready


@pytest.fixture
def predictor():
    return Clickable()


@pytest.fixture
def images():
    return PhotoSized()


def clicked(app, *places):
    body = click(payload(REPEATER), *places)
    assert ready(app).post("/predict", json=body).status_code == 200


@pytest.mark.parametrize(("opened_task_bytes", "fetched"), [(1, 2), (2**28, 1)])
def test_pixels_of_opened_tasks(make_app, images, opened_task_bytes, fetched):
    app = make_app(opened_task_bytes=opened_task_bytes, refine_clicks=True)
    for x in (20, 60):
        clicked(app, ("a", x, 20, True))
    assert images.fetched == fetched


@pytest.mark.parametrize(("click_steps", "outlined"), [(1, 4), (2, 2)])
def test_masks_after_a_click(make_app, predictor, click_steps, outlined):
    app = make_app(click_steps=click_steps, refine_clicks=True)
    for x in (20, 60, 20, 60):
        clicked(app, ("a", x, 20, True))
    assert len(predictor.prompts) == outlined


def test_tasks_under_way(make_app, predictor, images):
    app = make_app(predict_workers=4)
    client = ready(app)
    predictor.gate.clear()
    body = payload("predict_batch")
    tasks = [body["tasks"][0] | {"id": number} for number in range(6)]
    service = app.extensions["calico"].service
    service._budget_s = 0.1
    assert client.post("/predict", json=body | {"tasks": tasks}).status_code == 200
    deadline = time.monotonic() + 30
    while images.fetched < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert service.waiting == 2


def test_features_of_images():
    model = load_base_model(load_settings(encoded_image_bytes=2**20)).model
    assert (
        model.features._items.maxsize
        <= 2**20
        < load_base_model(load_settings()).model.features._items.maxsize
    )
