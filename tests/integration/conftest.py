"""A backend without Label Studio: fake model, images drawn by name, an in-process client."""

from __future__ import annotations

import copy
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from backend.app import close_app, create_app
from backend.errors import (
    ForbiddenAddressError,
    MediaUnavailableError,
    UnreadableMediaError,
)
from backend.settings import load_settings
from calico_model.types import ImageGroup
from tests.integration.fake_predictor import FakePredictor

PAYLOADS = Path(__file__).parents[1] / "golden" / "payloads"


def payload(name: str) -> dict:
    """Body of a captured request."""
    return json.loads((PAYLOADS / f"{name}.json").read_text())["body"]


FAILURES = {
    "missing": MediaUnavailableError,
    "forbidden": ForbiddenAddressError,
    "damaged": UnreadableMediaError,
}


class DrawnImages:
    """Draws an image for every URL; one that contains a word of FAILURES fails so."""

    def __init__(self):
        self.fetched = []

    def fetch_group(self, task):
        self.fetched.append(task.image_urls)
        for url, field in zip(task.image_urls, task.image_fields, strict=True):
            for word, error in FAILURES.items():
                if word in url:
                    raise error("on purpose", field=field)
        images = [self._draw(url) for url in task.image_urls]
        return ImageGroup(tuple(images), tuple(f"image {i}" for i in range(len(images))))

    @staticmethod
    def _draw(url):
        width = 13 if "narrow" in url else 64
        return np.full((48, width, 3), sum(url.encode()) % 256, np.uint8)


@pytest.fixture
def predictor():
    return FakePredictor()


@pytest.fixture
def images():
    return DrawnImages()


@pytest.fixture
def refines():
    """Whether clicks outline anew; `FakePredictor` outlines nothing, so they pick what it found."""
    return False


@pytest.fixture
def make_app(tmp_path, predictor, images, refines):
    """Builds apps that are closed with the test; keyword arguments are settings."""
    apps = []

    def make(*, load=lambda: predictor, client=None, **settings):
        # However busy the machine: only tests of the limit itself meet it.
        usual = {"data_dir": tmp_path / "data", "commit_timeout_ms": 30_000}
        chosen = usual | {"refine_clicks": refines} | settings
        apps.append(create_app(load_settings(**chosen), load=load, images=images, client=client))
        return apps[-1]

    yield make
    predictor.gate.set()
    for app in apps:
        close_app(app)


@pytest.fixture
def app(make_app):
    ready = make_app()
    ready.extensions["calico"].host.wait(10)
    return ready


@pytest.fixture
def client(app):
    return app.test_client()


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


def until(read, is_right, seconds=20.0):
    """Reads again and again until the value is right."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not is_right(value := read()):
        assert time.monotonic() < deadline, f"still {json.dumps(value, default=str)[:500]}"
        pause.wait(0.01)
    return value
