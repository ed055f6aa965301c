"""A web server without a model and replicas in this process answer what one server does."""

from __future__ import annotations

import pytest

import backend.app as app_module
from backend.app import close_app, create_app
from backend.fleet.connection import build_remote_side
from backend.fleet.replica import ModelReplica
from backend.settings import load_settings
from tests.integration.conftest import payload
from tests.integration.fake_predictor import FakePredictor
from tests.unit.fleet.local_fleet import handles

PREDICTIONS = (
    "predict_batch",
    "predict_open_task",
    "predict_test",
    "predict_interactive_ui_keypoints_repeater",
    "predict_interactive_ui_keypoints_twoimages",
    "predict_interactive_ui_keypoints_valuelist",
    "predict_interactive_ui_rectangle_repeater",
    "predict_interactive_ui_rectangle_valuelist",
)


class WebServer:
    """An app that asks two replicas."""

    def __init__(self, folder, images, monkeypatch):
        self.models = [FakePredictor(), FakePredictor()]
        self.replicas = [
            ModelReplica(
                load_settings(data_dir=folder / f"replica{number}", refine_clicks=False),
                load=lambda model=model: model,
                images=images,
            )
            for number, model in enumerate(self.models)
        ]
        self.handles = handles(self.replicas)
        monkeypatch.setattr(
            app_module,
            "_remote_side",
            lambda *given: build_remote_side(*given, connect=lambda _settings: self.handles),
        )
        settings = load_settings(data_dir=folder / "web", commit_timeout_ms=30_000)
        # A fleet's web server needs PostgreSQL; the file of this one is its own.
        self.app = create_app(settings.model_copy(update={"fleet_address": "127.0.0.1:1"}))
        self.app.extensions["calico"].host.wait(30)
        self.client = self.app.test_client()

    def close(self):
        close_app(self.app)
        for replica in self.replicas:
            replica.close()


@pytest.fixture
def web(tmp_path, images, monkeypatch):
    server = WebServer(tmp_path, images, monkeypatch)
    yield server
    server.close()


@pytest.mark.parametrize("name", PREDICTIONS)
def test_golden_requests_are_answered_byte_for_byte_as_by_one_server(web, client, name):
    alone, through = (
        asked.post("/predict", json=payload(name)).data for asked in (client, web.client)
    )
    assert alone == through
    assert b"results" in through


def test_a_server_of_a_fleet_announces_the_weights_of_its_replicas(web):
    answer = web.client.post("/setup", json=payload("setup_POST"))
    assert answer.json["model_version"] == web.models[0].version
    assert web.client.get("/health").json["model"] == "ready"


def test_a_dead_replica_costs_no_answer(web):
    web.handles.click.dead.add(0)
    for number in range(6):
        body = payload("predict_open_task")
        body["tasks"][0]["id"] = number + 1
        body["tasks"][0]["data"] = {
            key: [f"{number}-{url}" for url in value] if isinstance(value, list) else value
            for key, value in body["tasks"][0]["data"].items()
        }
        answer = web.client.post("/predict", json=body).json
        assert answer["results"][0]["model_version"] == web.models[1].version
        assert "error" not in answer["results"][0]
    assert web.handles.click.asked.count(0) > 0


def test_without_replicas_the_annotator_reads_why_and_the_task_is_asked_for_again(web):
    web.handles.click.dead.update((0, 1))
    answer = web.client.post("/predict", json=payload("predict_open_task")).json
    text = str(answer)
    assert "none of 4 click replicas answered" in text
    failed = {"outcome": "failed", "pool": "click"}
    registry = web.app.extensions["calico"].metrics.registry
    assert registry.get_sample_value("calico_fleet_tries_total", failed) >= 4


def test_pages_and_status_need_no_model(web):
    assert web.client.get("/versions").json["versions"] == [web.models[0].version]
