"""Where regions are put in order on their way out, and where they are not."""

from __future__ import annotations

import numpy as np
import pytest

from backend.label_studio.label_config import parse_label_config
from backend.serving.jobs import PredictionJob
from backend.serving.rendering import code_version, with_arrangement
from backend.types import Task
from calico_model.inference.arrangement import Arrangement
from calico_model.types import GroupPrediction, ImageGroup, PartMask, RegionKind
from research.label_studio.sample import REPEATER_CONFIG


@pytest.fixture
def prediction():
    masks = np.zeros((2, 20, 20), bool)
    masks[0, :, :12] = True
    masks[1, :, 8:] = True
    parts = tuple(
        PartMask(0, RegionKind.COMMON_PART, name, mask, score=score)
        for name, mask, score in zip("ab", masks, (0.5, 0.9), strict=True)
    )
    return GroupPrediction(parts, "v")


def seen(prediction, arrangement, **options):
    found = []

    def render(prediction, work, group):
        found.append(prediction)
        return b"[]", 0.0

    work = PredictionJob(Task(1, 7, ("a.png",)), parse_label_config(REPEATER_CONFIG), **options)
    group = ImageGroup((np.zeros((20, 20, 3), np.uint8),), ("a",))
    with_arrangement(render, arrangement)(prediction, work, group)
    return found[0]


def test_off_is_the_same_prediction(prediction):
    assert seen(prediction, Arrangement()) is prediction


def test_on_settles_what_is_shown(prediction):
    found = seen(prediction, Arrangement(overlaps=True))
    assert [int(part.mask.sum()) for part in found.parts] == [160, 240]


def test_suggestions_to_a_click_stay_whole(prediction):
    on = Arrangement(overlaps=True, gaps=True)
    assert seen(prediction, on, is_interactive=True) is prediction


def test_answers_kept_under_another_order_are_made_anew():
    versions = {
        code_version(),
        code_version(Arrangement()),
        code_version(Arrangement(overlaps=True)),
        code_version(Arrangement(gaps=True)),
        code_version(Arrangement(overlaps=True, gaps=True)),
    }
    assert len(versions) == 4
