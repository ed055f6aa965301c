"""The rest of the HTTP surface: setup, versions, metrics, credentials, and errors in one form."""

from __future__ import annotations

import base64
import copy

import pytest

from backend.app import build_ui
from backend.learning.overview import Overview
from backend.serving.studio import studio_names
from backend.settings import load_settings
from backend.storage.versions import Versions
from tests.integration.conftest import payload

SETUP = payload("setup_POST")
PROBLEM_KEYS = {"error", "detail", "field", "request_id"}


def basic(user, password, encoding="utf-8"):
    token = base64.b64encode(f"{user}:{password}".encode(encoding)).decode()
    return {"Authorization": f"Basic {token}"}


def test_setup_names_the_version_stamped_on_predictions(client):
    version = client.post("/setup", json=SETUP).get_json()["model_version"]
    items = client.post("/predict", json=payload("predict_open_task")).get_json()["results"]
    assert {item["model_version"] for item in items} == {version}


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        ("", "XML"),
        ("<View>", "XML"),
        ('<View><Image name="i" value="$i"/></View>', "Brush"),
        ("<View><Text name='t' value='$t'/></View>", "Image"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><View>&a;</View>', ""),
        ("<View>" * 30_000, ""),
    ],
)
def test_setup_refuses_a_config_that_cannot_work_and_says_what_is_missing(client, config, missing):
    answer = client.post("/setup", json={**SETUP, "schema": config})
    assert answer.status_code == 400
    assert missing in answer.get_json()["detail"]
    assert answer.get_json()["error"] == "InvalidLabelConfigError"


@pytest.mark.parametrize("project", ["abc", "9" * 30, {"id": 1}, True])
def test_setup_refuses_an_unreadable_project(client, project):
    answer = client.post("/setup", json={**copy.deepcopy(SETUP), "project": project})
    assert answer.status_code == 400
    assert answer.get_json()["field"] == "project"


def test_setup_tells_under_which_name_tasks_know_label_studio(app, client, tmp_path):
    body = SETUP | {"hostname": "https://label.example.com/studio"}
    assert client.post("/setup", json=body).status_code == 200
    trainer = studio_names(load_settings(data_dir=tmp_path / "data"))
    for names in (app.extensions["calico"].names, trainer):
        assert names.prefix_of("https://label.example.com/studio/data/a.png") == "/studio"


def test_versions_lists_what_serves(client):
    assert client.get("/versions").get_json() == {"versions": ["fake-00000001"]}


def test_metrics_count_what_happened(client):
    client.post("/predict", json=payload("predict_batch"))
    client.post("/webhook", json=payload("webhook_ANNOTATION_CREATED"))
    client.get("/nothing")
    text = client.get("/metrics").text
    assert 'calico_tasks_total{outcome="predicted"} 3.0' in text
    assert 'calico_events_total{action="ANNOTATION_CREATED",outcome="new"} 1.0' in text
    assert 'calico_requests_total{code="404",endpoint="unknown"} 1.0' in text
    assert "calico_queue_depth 0.0" in text


@pytest.mark.parametrize(
    ("method", "path", "status", "field"),
    [
        ("GET", "/nothing", 404, "path"),
        ("POST", "//predict", 404, "path"),
        ("GET", "/predict", 405, "method"),
        ("DELETE", "/webhook", 405, "method"),
        ("POST", "/health", 405, "method"),
    ],
)
def test_wrong_addresses_and_methods_are_answered_in_the_same_form(
    client, method, path, status, field
):
    answer = client.open(path, method=method)
    assert answer.status_code == status
    assert set(answer.get_json()) == PROBLEM_KEYS
    assert answer.get_json()["field"] == field
    assert answer.get_json()["request_id"] == answer.headers["X-Request-ID"]
    assert (status == 405) == ("Allow" in answer.headers)


def test_a_body_over_the_limit_is_refused(make_app):
    client = make_app(max_body_bytes=2048).test_client()
    for path in ("/predict", "/setup", "/webhook"):
        answer = client.post(path, data=b"x" * 3000)
        assert answer.status_code == 413
        assert answer.get_json()["error"] == "RequestTooLargeError"
        assert answer.get_json()["field"] == "body"


def test_a_compressed_body_is_refused(client):
    answer = client.post("/webhook", data=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 400
    assert answer.get_json()["field"] == "header Content-Encoding"


def test_an_unexpected_error_keeps_its_secrets_and_the_backend_alive(app, caplog):
    @app.get("/breaks")
    def breaks():
        raise RuntimeError("password=hunter2")

    answer = app.test_client().get("/breaks")
    assert answer.status_code == 500
    assert set(answer.get_json()) == PROBLEM_KEYS
    assert "hunter2" not in answer.text
    assert "hunter2" in caplog.text
    assert app.test_client().get("/health").status_code == 200


@pytest.fixture
def guarded(make_app):
    app = make_app(basic_auth_user="stüdio", basic_auth_password="pä:ss")
    app.extensions["calico"].host.wait(10)
    return app.test_client()


@pytest.mark.parametrize("path", ["/setup", "/predict", "/webhook", "/versions", "/metrics", "/x"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Basic"},
        {"Authorization": "Basic \xe4\xf6\xfc"},
        {"Authorization": "Bearer abc"},
        basic("stüdio", "wrong"),
        basic("studio", "pä:ss"),
    ],
)
def test_without_the_right_credentials_nothing_but_health_answers(guarded, path, headers):
    answer = guarded.post(path, json={}, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert answer.get_json()["field"] == "header Authorization"


def test_the_root_leads_people_to_the_pages_and_answers_probes(make_app):
    app = make_app(basic_auth_user="user", basic_auth_password="word")
    parts = app.extensions["calico"]
    parts.host.wait(10)
    client = app.test_client()
    for headers in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
        assert client.get("/", headers=headers).get_json() == client.get("/health").get_json()
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    assert client.get("/", headers=browser).get_json()["status"] == "UP"  # it has no pages
    with_pages = make_app(
        basic_auth_user="user",
        basic_auth_password="word",
        data_dir=parts.settings.data_dir.with_name("with pages"),
    )
    parts = with_pages.extensions["calico"]
    parts.host.wait(10)
    overview = Overview(parts.store, Versions(parts.store, parts.settings.adapters_dir))
    with_pages.register_blueprint(build_ui(parts, overview, None))
    answer = with_pages.test_client().get("/", headers=browser)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/ui/")
    assert with_pages.test_client().get("/ui/", headers=browser).status_code == 401
    assert with_pages.test_client().get("/").get_json()["status"] == "UP"
    assert with_pages.test_client().post("/").status_code == 401


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_with_credentials_everything_answers(guarded, encoding):
    headers = basic("stüdio", "pä:ss", encoding)
    event = payload("webhook_ANNOTATION_CREATED")
    assert guarded.get("/health").status_code == 200
    assert guarded.post("/webhook", json=event, headers=headers).status_code == 201
    assert guarded.post("/setup", json=SETUP, headers=headers).status_code == 200
    assert guarded.get("/versions", headers=headers).status_code == 200
