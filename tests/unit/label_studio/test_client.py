"""Calls of Label Studio's API: what is sent, both kinds of token, errors in plain words."""

from __future__ import annotations

import json

import httpx
import pytest

from backend.errors import LabelStudioAuthError, LabelStudioError
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.connection import ApiToken
from backend.label_studio.label_config import parse_label_config
from tests.unit.label_studio.golden_files import config, payload

LEGACY = "0123456789abcdef0123456789abcdef01234567"
PERSONAL = "eyJhbGciOi.eyJ0b2tlbl90.c2lnbmF0dXJl"
PROJECT = {"id": 4, "title": "t", "label_config": "<View/>", "color": "red", "model_version": None}


class Studio:
    """Plays Label Studio: fixed answers by method and path, every request remembered."""

    def __init__(self, **answers):
        self.answers = answers
        self.requests = []
        self.accepted = None
        self.refreshed = 0

    def __call__(self, request):
        if request.url.path.startswith("/api/token/refresh"):
            self.refreshed += 1
            return httpx.Response(200, json={"access": f"access{self.refreshed}"})
        self.requests.append(request)
        if self.accepted and request.headers.get("authorization") != self.accepted:
            return httpx.Response(401, json={"detail": "Invalid token."})
        found = self.answers[f"{request.method} {request.url.path}"]
        found = found(request) if callable(found) else found
        return found if isinstance(found, httpx.Response) else httpx.Response(200, json=found)

    def client(self, token=LEGACY):
        return LabelStudioClient("http://studio:8080/", token, transport=httpx.MockTransport(self))

    def sent(self, index=-1):
        return json.loads(self.requests[index].content)


def studio(answers):
    return Studio(**answers)


def test_legacy_token_is_sent_as_it_is():
    web = studio({"GET /api/projects/4/": PROJECT})
    assert web.client().project(4).title == "t"
    assert web.requests[0].headers["authorization"] == f"Token {LEGACY}"


def test_personal_token_buys_one_access_token_for_many_calls():
    web = studio({"GET /api/projects/4/": PROJECT})
    client = web.client(PERSONAL)
    client.project(4)
    client.project(4)
    assert [r.headers["authorization"] for r in web.requests] == ["Bearer access1"] * 2
    assert web.refreshed == 1


def test_access_token_is_renewed_after_a_refusal():
    web = studio({"GET /api/projects/4/": PROJECT})
    web.accepted = "Bearer access2"
    assert web.client(PERSONAL).project(4).id == 4
    assert [r.headers["authorization"] for r in web.requests] == [
        "Bearer access1",
        "Bearer access2",
    ]


def test_access_token_is_renewed_before_it_expires():
    now = [0.0]
    web = studio({})
    http = httpx.Client(base_url="http://studio", transport=httpx.MockTransport(web))
    token = ApiToken(PERSONAL, http, clock=lambda: now[0])
    headers = []
    for now[0] in (0.0, 239.0, 241.0):
        headers.append(token.header())
    assert headers == ["Bearer access1", "Bearer access1", "Bearer access2"]


@pytest.mark.parametrize("token", [LEGACY, PERSONAL])
def test_refused_token_says_what_to_do(token):
    web = studio({})
    web.accepted = "nothing"
    with pytest.raises(LabelStudioAuthError, match="LABEL_STUDIO_API_KEY"):
        web.client(token).project(4)


def test_refused_personal_token_says_what_to_do():
    refused = httpx.MockTransport(lambda request: httpx.Response(401, json={"detail": "no"}))
    client = LabelStudioClient("http://studio", PERSONAL, transport=refused)
    with pytest.raises(LabelStudioAuthError, match="Account & Settings"):
        client.project(4)


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (
            httpx.Response(404, json={"detail": "Not found."}),
            "has no project 4, or this token",
        ),
        (
            httpx.Response(400, json={"validation_errors": {"url": ["Enter a URL"]}}),
            "answered 400: .*Enter a URL",
        ),
        (httpx.Response(400, json={"title": ["Too long."]}), "answered 400: title: Too long."),
        (httpx.Response(502, text="<html>bad gateway"), "answered 502: Bad Gateway"),
        (httpx.Response(200, text="<html>sign in"), "expected JSON"),
        (httpx.Response(200), "projects/4/: expected JSON .* empty answer .200."),
        (httpx.Response(200, text="null"), "expected JSON .* empty answer"),
        (httpx.Response(200, json=[]), "unexpected answer"),
        (httpx.Response(200, json={"id": "four"}), "unexpected answer"),
        (httpx.Response(302, headers={"location": "/user/login"}), "answered 302"),
    ],
)
def test_error_is_told_in_plain_words(response, message):
    with pytest.raises(LabelStudioError, match=message):
        studio({"GET /api/projects/4/": response}).client().project(4)


def test_label_studio_that_is_down():
    def page(request):
        raise httpx.ConnectError("refused")

    client = LabelStudioClient("http://studio:1", LEGACY, transport=httpx.MockTransport(page))
    with pytest.raises(LabelStudioError, match="http://studio:1 cannot be reached"):
        client.project(4)
    with pytest.raises(LabelStudioError, match="cannot be reached"):
        client.version()


def test_projects_of_every_page():
    def page(request):
        number = int(request.url.params["page"])
        return {"results": [PROJECT | {"id": number}], "next": "more" if number < 3 else None}

    client = studio({"GET /api/projects/": page}).client()
    assert [project.id for project in client.projects()] == [1, 2, 3]


@pytest.mark.parametrize("last", ["total", "404"])
def test_tasks_of_every_page(last):
    def page(request):
        number = int(request.url.params["page"])
        if number > 2:
            return httpx.Response(404, json={"detail": "Invalid page."})
        tasks = [{"id": number, "data": {"images": ["a.png"] * (number - 1)}}]
        return {"tasks": tasks} | ({"total": 2} if last == "total" else {})

    client = studio({"GET /api/tasks/": page}).client()
    first, second = client.tasks(4, parse_label_config(config("cosegment_open")))
    assert "task 1.data.images: expected a list" in first.problem
    assert (second.image_urls, second.project_id) == (("a.png",), 4)


def test_prediction_is_sent_as_written():
    web = studio({"POST /api/predictions/": {"id": 77}})
    result = b'[{"id": "r", "value": {"rle": [1, 2]}}]'
    assert web.client().create_prediction(5, result, score=0.5, version="v") == 77
    assert web.sent() == {
        "task": 5,
        "result": json.loads(result),
        "score": 0.5,
        "model_version": "v",
    }


@pytest.mark.parametrize("shape", [list, lambda found: {"results": found}])
def test_predictions_of_a_task(shape):
    captured = payload("recommended_labels_brush")
    found = [captured["prediction"] | {"id": 1, "task": 5}]
    client = studio({"GET /api/predictions/": shape(found)}).client()
    (prediction,) = client.predictions(5, parse_label_config(captured["label_config"]))
    assert (prediction.version, len(prediction.regions)) == ("gen1", 4)


def test_backend_is_added_with_its_credentials():
    backend = {
        "id": 1,
        "url": "http://b:9090",
        "title": "c",
        "state": "CO",
        "is_interactive": True,
        "auth_method": "BASIC_AUTH",
    }
    web = studio({"POST /api/ml/": backend, "GET /api/ml/": [backend]})
    client = web.client()
    added = client.add_ml_backend(4, "http://b:9090", title="c", credentials=("u", "p"))
    assert (added.state, client.ml_backends(4)) == ("CO", (added,))
    assert web.sent(0)["basic_auth_pass"] == "p"
    assert web.requests[1].url.params["project"] == "4"


HOOK = {
    "id": 6,
    "url": "http://b:9090/webhook",
    "is_active": True,
    "send_payload": True,
    "send_for_all_actions": True,
    "actions": [],
    "headers": {"Authorization": "Basic eA=="},
}


def test_webhook_carries_credentials_and_every_event():
    web = studio({"POST /api/webhooks/": HOOK, "PATCH /api/webhooks/6/": HOOK})
    client = web.client()
    hook = client.add_webhook(4, HOOK["url"], headers=HOOK["headers"])
    assert web.sent()["headers"] == HOOK["headers"]
    assert web.sent()["send_for_all_actions"] is True
    assert "eA==" not in repr(hook)
    client.update_webhook(hook, 4, headers={"Authorization": "Basic new"})
    assert web.sent()["headers"] == {"Authorization": "Basic new"}


def test_tasks_are_imported():
    web = studio({"POST /api/projects/4/import": {"task_count": 2, "task_ids": [8, 9]}})
    assert web.client().import_tasks(4, [{"data": {"images": ["a"]}}] * 2) == (8, 9)


def test_deleting_answers_nothing():
    web = studio({"DELETE /api/webhooks/6/": httpx.Response(204)})
    assert web.client().remove_webhook(6) is None
