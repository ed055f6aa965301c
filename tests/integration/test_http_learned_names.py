"""Accepted and removed names teach, over HTTP, which source is believed about a word."""

from __future__ import annotations

import numpy as np
import pytest

from backend.learning.derivation import Derivation
from backend.learning.repository import CorrectionRepository
from backend.learning.source_learner import SourceLearner
from backend.storage.source_trust import SourceAnswerStore
from calico_model.sources.source import Ability
from tests.integration.test_http_click import mask_of
from tests.integration.test_http_named_sources import (
    SIZE,
    images,
    predictor,
    refines,
    save_sam3,
    served,
)
from tests.integration.test_http_prompt_box import CONFIGS
from tests.unit.learning import annotated

__all__ = ["images", "predictor", "refines", "served"]
PROJECT = 14
NAME = "words"


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    return f"{NAME}={save_sam3(tmp_path_factory.mktemp('hub') / 'sam3', lite=False)}"


def ask(client, task):
    """Types "handle" in a task; returns (image, mask) of every suggested region."""
    typed = {
        "id": "Qx7",
        "from_name": "ask_0",
        "to_name": "image_0",
        "type": "textarea",
        "origin": "manual",
        "value": {"text": ["handle"]},
    }
    body = {
        "tasks": [{"id": task, "project": PROJECT, "data": {"images": ["a.png", "b.png"]}}],
        "label_config": (CONFIGS / "cosegment_open.xml").read_text("utf-8"),
        "project": f"{PROJECT}.1795191017",
        "params": {"context": {"result": [typed]}},
    }
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    (item,) = answer.get_json()["results"]
    brushes = [one for one in item["result"] if one["type"] == "brush"]
    return [(int(one["to_name"].removeprefix("image_")), mask_of(one)) for one in brushes]


def submit(client, task, regions):
    """Posts an annotation with (image, mask) regions, all of them called handle."""
    drawn = [
        (f"r{number}", mask, "handle", "common_part", image)
        for number, (image, mask) in enumerate(regions)
    ]
    sent = annotated.body(task, annotated.results(*drawn), task=task, project=PROJECT)
    assert client.post("/webhook", json=sent).status_code == 201


def learned(components):
    """Derives and learns, as the trainer does; returns the belief in the source."""
    derivation = Derivation(CorrectionRepository(components.store))
    derivation.derive(PROJECT)
    SourceLearner(components.store, derivation).learn(PROJECT)
    trust = SourceAnswerStore(components.store).trust(PROJECT)
    return trust.of(NAME, Ability.TEXT, "handle")


def test_a_source_whose_names_were_removed_is_silent_for_that_word(served, entry):
    app, components = served(entry)
    elsewhere = np.zeros(SIZE, bool)
    elsewhere[:2, :2] = True
    for task in range(1, 5):
        assert ask(app.test_client(), task)
        submit(app.test_client(), task, [(0, elsewhere)])
    belief = learned(components)
    assert belief.proposals >= 4
    assert belief.is_silent
    other, _ = served(entry)
    assert ask(other.test_client(), 9) == []


def test_a_source_whose_names_were_accepted_is_trusted_with_that_word(served, entry):
    app, components = served(entry)
    for task in range(1, 5):
        submit(app.test_client(), task, ask(app.test_client(), task))
    belief = learned(components)
    assert belief.precision > 0.6
    assert belief.recall > 0.9
