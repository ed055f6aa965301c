"""Which predictions Label Studio stores, and which of them are one too many."""

from __future__ import annotations

import json

import httpx
import pytest

from backend.label_studio.client import LabelStudioClient
from backend.label_studio.predictions import (
    delete_duplicates,
    has_prediction,
    stored_predictions,
    task_states,
)

OURS = frozenset({"base", "base-p7v1"})


class Studio:
    """Predictions of one task; deleted ones are gone."""

    def __init__(self, predictions, *, parents=(), draft=False):
        self.predictions = predictions
        self.parents, self.draft = parents, draft
        self.deleted = []

    def __call__(self, request):
        path, params = request.url.path, request.url.params
        if request.method == "DELETE":
            self.deleted.append(int(path.split("/")[3]))
            return httpx.Response(204)
        if path == "/api/predictions/":
            return httpx.Response(200, json=self.predictions)
        query = json.loads(params["query"])
        task = {"id": 5, "data": {}}
        if "filters" in query:
            names = {item["filter"] for item in query["filters"]["items"]}
            assert names == {"filter:tasks:id", "filter:tasks:draft_exists"}
            return httpx.Response(200, json={"tasks": [task] if self.draft else []})
        annotations = [{"id": n, "parent_prediction": one} for n, one in enumerate(self.parents)]
        tasks = [task | {"annotations": annotations}]
        return httpx.Response(200, json={"tasks": tasks, "total": 1})

    def client(self):
        return LabelStudioClient("http://ls", "0" * 40, transport=httpx.MockTransport(self))


def prediction(number, version, **fields):
    return {"id": number, "task": 5, "model_version": version, "result": [], "score": 0.5} | fields


TWICE = [prediction(n, v) for n, v in ((4, "base"), (9, "base"), (7, "base"), (8, "base-p7v1"))]


@pytest.mark.parametrize(
    ("parents", "deleted"),
    [((), [4, 7]), ((None,), [4, 7]), ((4,), [7, 9]), ((4, 9), [7]), ((8,), [4, 7])],
)
def test_the_newest_stays_or_those_that_annotations_started_from(parents, deleted):
    studio = Studio(TWICE, parents=parents)
    assert delete_duplicates(studio.client(), 7, 5, OURS) == len(deleted)
    assert sorted(studio.deleted) == deleted


def test_predictions_of_others_are_left_alone():
    studio = Studio([prediction(n, "somebody else") for n in (1, 2)])
    assert delete_duplicates(studio.client(), 7, 5, OURS) == 0
    assert studio.deleted == []


def test_nothing_is_deleted_while_somebody_works_on_the_task():
    studio = Studio(TWICE, draft=True)
    assert delete_duplicates(studio.client(), 7, 5, OURS) == 0
    assert studio.deleted == []


def test_a_version_is_compared_whole():
    client = Studio([prediction(1, "base-p7v1")]).client()
    assert has_prediction(client, 5, "base-p7v1")
    assert not has_prediction(client, 5, "base")


def test_regions_are_read_without_their_masks():
    shape = {"id": "r", "type": "brush", "score": 0.7, "value": {"rle": [1, 2]}}
    name = {"id": "r", "type": "textarea", "value": {"text": ["lid"]}}
    kind = {"id": "r", "type": "labels", "value": {"labels": ["common part"]}}
    link = {"type": "relation", "from_id": "r", "to_id": "s"}
    studio = Studio([prediction(1, "base", result=[shape, name, kind, link])])
    (found,) = stored_predictions(studio.client(), 5)
    (region,) = found.regions
    assert (region.id, region.score, region.labels) == ("r", 0.7, ("lid", "common part"))


def test_notes_to_annotators_are_no_regions():
    note = {"id": "note-note_0", "type": "textarea", "value": {"text": ["Nothing is shown yet"]}}
    (found,) = stored_predictions(Studio([prediction(1, "base", result=[note])]).client(), 5)
    assert found.regions == ()


def states(*tasks):
    def handle(request):
        assert json.loads(request.url.params["query"])["ordering"] == ["tasks:id"]
        return httpx.Response(200, json={"tasks": list(tasks), "total": len(tasks)})

    client = LabelStudioClient("http://ls", "0" * 40, transport=httpx.MockTransport(handle))
    return list(task_states(client, 7))


def test_what_is_stored_of_a_task_is_told():
    clean, twice, begun, shortened = states(
        {"id": 1, "data": {"a": 1}, "predictions_model_versions": "b,a", "total_predictions": 2},
        {"id": 2, "predictions_model_versions": "a, b", "total_predictions": 3},
        {"id": 3, "predictions_model_versions": "", "draft_exists": True},
        {"id": 4, "predictions_model_versions": "v" * 500, "total_predictions": 1},
    )
    assert (clean.versions, clean.has_duplicates, clean.is_begun) == ({"a", "b"}, False, False)
    assert (twice.versions, twice.has_duplicates) == ({"a", "b"}, True)
    assert (begun.versions, begun.is_begun) == (set(), True)
    assert (shortened.versions, shortened.has_duplicates) == (None, True)
