"""Groups that wait for one version are asked together; everybody gets the own answer or error."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from backend.serving.group_predictions import GroupPredictions, GroupPredictor
from backend.serving.metrics import Metrics
from backend.storage.store import open_store
from calico_model.types import GroupPrediction, ImageGroup
from tests.doubles import ModelDouble

SOON_S = 20.0


class Counting(ModelDouble):
    """Says how wide the first image is; an image of 13 pixels breaks it."""

    def __init__(self, version):
        self.version, self.asked = version, []

    def predict(self, group):
        width = group.sizes_hw[0][1]
        if width == 13:
            raise ValueError("width 13")
        return GroupPrediction((), self.version, {"width": str(width)})

    def predict_groups(self, groups):
        self.asked.append(sorted(group.sizes_hw[0][1] for group in groups))
        return [self.predict(group) for group in groups]


@pytest.fixture
def make(tmp_path):
    store = open_store(f"sqlite:///{tmp_path / 'calico.sqlite3'}", commit_timeout_s=30)
    yield lambda at_once: GroupPredictor(
        GroupPredictions(store, max_bytes=100_000, code="1"), Metrics(), at_once
    )
    store.close()


def asked_while_busy(predictor, questions):
    """Asks (model, width) in threads that all wait for the model; returns their answers."""
    answers = {}

    def ask(model, width):
        group = ImageGroup((np.full((4, width, 3), width, np.uint8),), ("1",))
        try:
            answers[model.version, width] = predictor.predict(group, model).answers["width"]
        except ValueError as error:
            answers[model.version, width] = str(error)

    threads = [threading.Thread(target=ask, args=question) for question in questions]
    with predictor.lock:
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + SOON_S
        while predictor.waiting < len(threads):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    for thread in threads:
        thread.join(SOON_S)
    return answers


def test_groups_of_one_version_are_asked_together(make):
    first, second, predictor = Counting("v1"), Counting("v2"), make(4)
    widths = range(20, 25)
    answers = asked_while_busy(
        predictor, [*((first, width) for width in widths), (second, 30), (second, 31)]
    )
    assert answers == {
        **{("v1", width): str(width) for width in widths},
        ("v2", 30): "30",
        ("v2", 31): "31",
    }
    assert second.asked == [[30, 31]]
    (together,) = first.asked  # the fifth was asked alone
    assert len(together) == 4
    assert predictor.waiting == 0


def test_a_group_that_breaks_the_model_leaves_the_others_alone(make):
    model = Counting("v1")
    answers = asked_while_busy(make(8), [(model, 12), (model, 13), (model, 14)])
    assert answers == {("v1", 12): "12", ("v1", 13): "width 13", ("v1", 14): "14"}
    assert model.asked == [[12, 13, 14]]


def test_by_default_every_group_is_asked_alone(make):
    model = Counting("v1")
    assert asked_while_busy(make(1), [(model, 12), (model, 14)]) == {
        ("v1", 12): "12",
        ("v1", 14): "14",
    }
    assert model.asked == []
