"""Asking a backend as Label Studio does, and what its refusals mean."""

from __future__ import annotations

import json

import httpx
import pytest

from backend.errors import BackendError, NotReadyError, SettingsError
from backend.label_studio.backend_client import BackendClient
from backend.label_studio.predictions import TaskState
from research.label_studio.sample import REPEATER_CONFIG

TASK = TaskState(5, {"images": ["a.png"]}, frozenset(), 0, is_begun=False)


def backend(answer):
    return BackendClient("http://b:9090/", ("u", "p"), transport=httpx.MockTransport(answer))


def test_every_task_has_an_answer_a_reason_or_is_not_finished():
    asked = []

    def answer(request):
        asked.append(request)
        detail = "tasks[1].data.images[0]: expected an image"
        items = [
            {"model_version": "v1", "result": [{"id": "r"}], "score": 0.5},
            {"model_version": "v1", "result": [], "problem": {"error": "E", "detail": detail}},
            {"model_version": "v1", "problem": {"error": "E", "detail": "again"}},
            {"model_version": "v1"},
            {"model_version": "v1", "result": [], "score": 0.0},
            {"model_version": "v1", "result": [{"id": "note-note_0", "type": "textarea"}]},
        ]
        return httpx.Response(200, json={"results": items})

    answers = backend(answer).predict(7, REPEATER_CONFIG, [TASK] * 6)
    found, broken, failed, late, empty, noted = answers
    assert (found.regions, found.has_regions, found.score) == (b'[{"id":"r"}]', True, 0.5)
    assert (broken.regions, broken.problem) == (None, "data.images[0]: expected an image")
    assert (failed.problem, failed.is_finished) == ("again", True)
    assert not late.is_finished
    assert (empty.regions, empty.has_regions, empty.is_finished) == (b"[]", False, True)
    assert (noted.has_regions, noted.is_finished) == (False, True)
    (request,) = asked
    assert str(request.url) == "http://b:9090/predict?background=1"
    assert request.headers["Authorization"].startswith("Basic ")
    assert json.loads(request.content)["tasks"][0]["data"] == {"images": ["a.png"]}


def refused(status, body):
    return lambda _: httpx.Response(status, json=body)


def away(_):
    raise httpx.ConnectError("no")


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (refused(401, {}), SettingsError, "CALICO_BASIC_AUTH_USER"),
        (refused(400, {"detail": "label_config: no image"}), BackendError, "no image"),
        (refused(200, {"model_version": None}), NotReadyError, "still loading"),
        (refused(200, []), BackendError, "unexpected answer"),
        (away, BackendError, "calico serve"),
    ],
)
def test_refusals_are_said_in_plain_words(answer, error, words):
    with pytest.raises(error, match=words):
        backend(answer).version(7, REPEATER_CONFIG)


def test_what_is_no_backend_of_ours_has_no_state():
    assert backend(away).model_state() is None
    assert backend(lambda _: httpx.Response(200, text="<html>")).model_state() is None
    assert backend(refused(200, {"status": "UP", "model": "ready"})).model_state() == "ready"


def test_batches_are_beside_the_point_where_nobody_answers():
    assert backend(away).batches() == {}
    projects = [{"project": 7, "predictions": {"total": 2}}, {"project": 8, "predictions": None}]
    assert backend(refused(200, {"projects": projects})).batches() == {7: {"total": 2}}
