"""Typed questions over HTTP: an answer under the question, and the regions after it."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask.testing import FlaskClient

CONFIGS = Path(__file__).parents[2] / "label_config"


def ask(client: FlaskClient, text: str, config: str = "cosegment_open") -> list[dict[str, object]]:
    """The result list that answers a text typed at the first of two images."""
    typed = {
        "id": "Qx7",
        "from_name": "ask_0",
        "to_name": "image_0",
        "type": "textarea",
        "origin": "manual",
        "value": {"text": [text]},
    }
    body = {
        "tasks": [{"id": 5, "project": 14, "data": {"images": ["a.png", "b.png"]}}],
        "label_config": (CONFIGS / f"{config}.xml").read_text("utf-8"),
        "project": "14.1795191017",
        "params": {"context": {"result": [typed]}},
    }
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    (item,) = answer.get_json()["results"]
    result: list[dict[str, object]] = item["result"]
    return result


def lines(result: list[dict[str, object]]) -> list[str]:
    """What stands in the prompt box after an answer, which is the first of its results."""
    told = result[0]
    assert (told["id"], told["from_name"], told["type"]) == ("Qx7", "ask_0", "textarea")
    return told["value"]["text"]  # type: ignore[index, return-value]


def test_a_question_is_answered_with_its_kind_of_regions(client: FlaskClient) -> None:
    told, *regions = ask(client, "which parts do they share?")

    assert lines([told])[0] == "which parts do they share?"
    assert lines([told])[1].startswith("→ common part: ")
    assert {region["id"] for region in regions if region["type"] == "brush"}
    kinds = {tuple(r["value"]["labels"]) for r in regions if r["type"] == "labels"}  # type: ignore[index]
    assert kinds == {("common_part",)}


@pytest.mark.parametrize("config", ["cosegment_open", "cosegment_labels"])
@pytest.mark.parametrize("text", ["segment the wings", "rotor", "please", "what is this?"])
def test_whatever_is_typed_something_is_said(client: FlaskClient, text: str, config: str) -> None:
    question, reply = lines(ask(client, text, config))

    assert question == text
    assert len(reply) > len("→ ")


def test_words_without_a_label_are_met_with_the_labels(client: FlaskClient) -> None:
    result = ask(client, "tentacles", "cosegment_labels")

    assert len(result) == 1
    assert (
        'no label is like "tentacles"; the labels are "chair", "stool", "table"' in lines(result)[1]
    )
