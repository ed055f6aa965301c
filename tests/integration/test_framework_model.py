"""The face for label-studio-ml 2.x, against a base class with its interface."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest

from backend.errors import InvalidLabelConfigError
from tests.integration.conftest import payload

BATCH = payload("predict_batch")


class FrameworkBase:
    """What label-studio-ml 2.x's LabelStudioMLBase offers a subclass."""

    def __init__(self, project_id=None, label_config=None):
        self.project_id = project_id
        self.label_config = label_config
        self.kept = {}
        self.setup()

    def set(self, key, value):
        assert isinstance(value, str)
        self.kept[key] = value


@pytest.fixture
def model_class(monkeypatch, app):
    framework, module = ModuleType("label_studio_ml"), ModuleType("label_studio_ml.model")
    module.LabelStudioMLBase = FrameworkBase
    monkeypatch.setitem(sys.modules, "label_studio_ml", framework)
    monkeypatch.setitem(sys.modules, "label_studio_ml.model", module)
    monkeypatch.delitem(sys.modules, "backend.model", raising=False)
    loaded = importlib.import_module("backend.model").CalicoModel
    loaded.share(app.extensions["calico"])
    yield loaded
    sys.modules.pop("backend.model", None)


def test_it_answers_what_the_backend_answers(model_class, client):
    model = model_class(project_id="14", label_config=BATCH["label_config"])
    items = model.predict(BATCH["tasks"], context=None, login=None, password=None)
    assert items == client.post("/predict", json=BATCH).get_json()["results"]
    assert model.kept["model_version"] == items[0]["model_version"]


def test_a_click_is_answered_with_suggestions(model_class, client):
    body = payload("predict_interactive_ui_keypoints_repeater")
    model = model_class(project_id="14", label_config=body["label_config"])
    items = model.predict(body["tasks"], context=body["params"]["context"])
    assert items == client.post("/predict", json=body).get_json()["results"]


def test_events_are_journalled_once(model_class, app):
    body = payload("webhook_ANNOTATION_CREATED")
    model = model_class(project_id="14", label_config=BATCH["label_config"])
    for _ in range(2):
        model.fit(body["action"], body)
    assert len(app.extensions["calico"].store.events(body["project"]["id"])) == 1


def test_a_config_that_cannot_work_is_named(model_class):
    model = model_class(project_id="14", label_config="<View/>")
    with pytest.raises(InvalidLabelConfigError, match="label_config"):
        model.predict(BATCH["tasks"])


def test_without_the_framework_the_import_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "label_studio_ml", None)
    monkeypatch.delitem(sys.modules, "backend.model", raising=False)
    with pytest.raises(ImportError, match=r"label-studio-ml 2\.x"):
        importlib.import_module("backend.model")
