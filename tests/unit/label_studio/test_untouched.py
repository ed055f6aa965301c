"""What is asked of Label Studio before and after predicting again."""

from __future__ import annotations

import json

import httpx
import pytest

from backend.errors import LabelStudioError
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.untouched import show_version, untouched_tasks
from research.label_studio.sample import REPEATER_CONFIG

SCHEMA = parse_label_config(REPEATER_CONFIG)


def client(answer):
    asked = []

    def handle(request):
        asked.append(request)
        return httpx.Response(200, json=answer)

    made = LabelStudioClient("http://ls", "0" * 40, transport=httpx.MockTransport(handle))
    return made, asked


def filters(request):
    query = json.loads(request.url.params["query"])
    assert query["filters"]["conjunction"] == "and"
    assert query["ordering"] == ["tasks:id"]
    return {
        item["filter"].removeprefix("filter:tasks:"): (item["operator"], item["value"])
        for item in query["filters"]["items"]
    }


def test_label_studio_chooses_what_nobody_has_begun():
    tasks = [{"id": 5, "data": {"images": ["/data/a.png"]}}, {"id": 6, "data": {}}]
    made, asked = client({"tasks": tasks, "total": 12})
    page = untouched_tasks(made, 7, SCHEMA, version="v1", after=4)
    assert [(task.id, task.project_id, task.problem is None) for task in page.tasks] == [
        (5, 7, True),
        (6, 7, False),
    ]
    assert page.total == 12
    assert filters(asked[0]) == {
        "total_annotations": ("equal", 0),
        "cancelled_annotations": ("equal", 0),
        "draft_exists": ("equal", False),
        "predictions_model_versions": ("not_contains", ["v1"]),
        "id": ("greater", 4),
    }


def test_one_task_is_asked_about_alone():
    made, asked = client({"tasks": [], "total": 0})
    assert untouched_tasks(made, 7, SCHEMA, version="v1", only=9).tasks == ()
    assert filters(asked[0])["id"] == ("equal", 9)


def test_the_least_certain_tasks_come_by_the_score_they_have():
    made, asked = client({"tasks": [], "total": 0})
    untouched_tasks(made, 7, SCHEMA, version="v1", least_certain_page=3)
    assert asked[0].url.params["page"] == "3"
    query = json.loads(asked[0].url.params["query"])
    assert query["ordering"] == ["tasks:predictions_score"]


@pytest.mark.parametrize("answer", [[], {"tasks": 3}, {"total": 1}])
def test_an_answer_of_another_form_is_named(answer):
    made, _ = client(answer)
    with pytest.raises(LabelStudioError, match="unexpected answer"):
        untouched_tasks(made, 7, SCHEMA, version="v1")


def backend(title, version, id_=3):
    return {"id": id_, "url": "http://b:9090", "title": title, "model_version": version}


@pytest.mark.parametrize(
    ("found", "is_shown", "renamed"),
    [
        ([backend("CALICO", "v2")], True, True),
        ([backend("v1", "v2")], True, True),
        ([backend("v2", "v2")], True, False),
        ([backend("my own name", "v2")], False, False),
        ([backend("CALICO", "v1")], False, False),
        ([backend("CALICO", "v2"), backend("CALICO", "v2", 4)], False, False),
        ([], False, False),
    ],
)
def test_the_backend_is_called_by_its_version(monkeypatch, found, is_shown, renamed):
    calls = []
    monkeypatch.setattr(
        "backend.label_studio.untouched.update_ml_backend",
        lambda client, *where, **what: calls.append((where, what)),
    )
    made, _ = client(found)
    pair = ("user", "word")
    ours = frozenset({"v1", "v2"})
    assert show_version(made, 7, "v2", ours=ours, credentials=pair) is is_shown
    expected = [((3, 7, "http://b:9090"), {"title": "v2", "credentials": pair})]
    assert calls == (expected if renamed else [])


def test_a_prediction_carries_its_place_in_the_order():
    made, asked = client({"id": 11})
    made.create_prediction(5, b"[]", score=0.5, version="v1", cluster=2, neighbors=(8, 9))
    made.create_prediction(5, b"[]", score=0.5, version="v1")
    first, second = (json.loads(request.content) for request in asked)
    assert (first["cluster"], first["neighbors"]) == (2, [8, 9])
    assert "cluster" not in second
