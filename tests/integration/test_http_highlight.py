"""Words that are highlighted beside the images over HTTP: regions under the highlight."""

from __future__ import annotations

import json
from pathlib import Path

from flask.testing import FlaskClient

CONFIG = (Path(__file__).parents[2] / "label_config" / "cosegment_text.xml").read_text("utf-8")


def highlight(
    client: FlaskClient, words: str, predictions: list[dict[str, object]] | None = None
) -> list[dict[str, object]]:
    """The result list that answers words highlighted in the text of a pair of images."""
    span = {
        "id": "dEnyHBiVyy",
        "from_name": "phrase",
        "to_name": "text",
        "type": "labels",
        "origin": "manual",
        "value": {"start": 2, "end": 2 + len(words), "text": words, "labels": ["phrase"]},
    }
    data = {"images": ["a.png", "b.png"], "text": f"A {words} on a box."}
    body = {
        "tasks": [{"id": 5, "project": 14, "data": data, "predictions": predictions or []}],
        "label_config": CONFIG,
        "project": "14.1795191017",
        "params": {"context": {"result": [span]}},
    }
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    (item,) = answer.get_json()["results"]
    result: list[dict[str, object]] = item["result"]
    return result


def brushes(result: list[dict[str, object]]) -> list[dict[str, object]]:
    return [one for one in result if one["type"] == "brush"]


def test_the_words_are_outlined_on_every_image_that_shows_them(client: FlaskClient) -> None:
    note, *regions = highlight(client, "common parts")

    assert (note["from_name"], note["value"]) == ("note_0", {"text": ["common part: lid"]})
    assert [one["to_name"] for one in brushes(regions)] == ["image_0", "image_1"]
    assert {one["parentID"] for one in regions} == {"dEnyHBiVyy"}
    assert all(one["type"] != "relation" for one in regions), "it would crash the editor"


def test_what_is_not_there_is_said(client: FlaskClient) -> None:
    (note,) = highlight(client, "rotor")

    assert note["from_name"] == "note_0"
    assert "rotor" in json.dumps(note["value"])


def test_drawn_regions_are_linked_and_not_drawn_again(client: FlaskClient) -> None:
    first = highlight(client, "common parts")
    drawn = [{**one, "id": f"drawn{one['to_name']}"} for one in first if "parentID" in one]
    for one in drawn:
        del one["parentID"]

    again = highlight(client, "common parts", [{"id": 1, "result": drawn}])

    assert [(one["id"], one["parentID"]) for one in brushes(again)] == [
        ("drawnimage_0", "dEnyHBiVyy"),
        ("drawnimage_1", "dEnyHBiVyy"),
    ]
    assert [one["value"] for one in brushes(again)] == [one["value"] for one in brushes(first)]
