"""Answers put in the model's mouth: same masks as if it had said them, and honest likelihoods."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from calico_model import prompts
from calico_model.data.synthetic import SceneSplit, Stream, draw_group, group_rng, labeled_group
from calico_model.evaluation.protocol import SteerablePredictor
from calico_model.predictor import Predictor, load_predictor
from calico_model.tokenizer import Tokenizer
from calico_model.types import ImageGroup, RegionKind
from tests.conftest import build_micro

TABLE = "The images share <p> the table </p> [SEG] (IMAGE1) [SEG] (IMAGE2). </s>"
LONG = (
    "The images show <p> the chair </p> [SEG] (IMAGE1) [SEG] (IMAGE2). Parts found on one side "
    "only: <p> the seat </p> [SEG] (IMAGE2) and <p> the leg </p> [SEG] (IMAGE1). </s>"
)
NONE = "The objects share no part. </s>"


@pytest.fixture(scope="module")
def shipped() -> Predictor:
    return load_predictor(threads=1)


@pytest.fixture
def predictor(tokenizer: Tokenizer) -> Predictor:
    return Predictor(build_micro(tokenizer.size), tokenizer, version="v1")


@pytest.fixture
def group(images: list[np.ndarray]) -> ImageGroup:
    return ImageGroup(tuple(images), ("a", "b"))


def drawn(index: int) -> ImageGroup:
    rng = group_rng(Stream.EVALUATION, 3, index)
    return labeled_group(draw_group(rng, split=SceneSplit.SEEN, group_size=2)).group


def test_the_shipped_model_can_be_asked_everything(shipped: Predictor) -> None:
    assert isinstance(shipped, SteerablePredictor)


def test_forcing_its_own_answer_draws_the_same_masks(
    shipped: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Asked in pairs, it draws every mask in the light of its pair.
    at_once = replace(shipped._model.config, asks_in_pairs=False)
    monkeypatch.setattr(shipped._model, "config", at_once)
    group = drawn(1)
    own = shipped.predict(group)
    said = {kind: f"{own.answers[kind]} {prompts.END}" for kind in RegionKind}
    forced = {
        (p.kind, p.label, p.image_index): p.mask for p in shipped.predict_forced(group, said).parts
    }
    assert own.parts
    for part in own.parts:
        same = forced[part.kind, part.label, part.image_index] == part.mask
        assert same.mean() > 0.999


def test_true_answer_is_likelier_than_nonsense(shipped: Predictor) -> None:
    group = drawn(1)
    own = shipped.predict(group)
    said = f"{own.answers[RegionKind.COMMON_OBJECT]} {prompts.END}"
    turned = " ".join(reversed(said.split()))
    ours, theirs = shipped.likelihoods(group, RegionKind.COMMON_OBJECT, [said, turned])
    assert ours.mean() > math.log(0.5)
    assert ours.sum() > theirs.sum() + 20


def test_forced_regions_follow_the_answer_and_keep_empty_masks(
    predictor: Predictor, group: ImageGroup
) -> None:
    answers = {
        RegionKind.COMMON_OBJECT: TABLE,
        RegionKind.COMMON_PART: NONE,
        RegionKind.UNIQUE_PART: LONG,
    }
    forced = predictor.predict_forced(group, answers)
    assert [(p.kind, p.label, p.image_index) for p in forced.parts] == [
        (RegionKind.COMMON_OBJECT, "table", 0),
        (RegionKind.COMMON_OBJECT, "table", 1),
        (RegionKind.UNIQUE_PART, "seat", 1),
        (RegionKind.UNIQUE_PART, "leg", 0),
    ]
    for part in forced.parts:
        assert part.mask.shape == group.sizes_hw[part.image_index]
    with torch.no_grad():
        for parameter in predictor._model.mask_decoder.parameters():
            parameter.zero_()
    assert [p.mask.any() for p in predictor.predict_forced(group, answers).parts] == [False] * 4


def test_likelihoods_do_not_depend_on_company(predictor: Predictor, group: ImageGroup) -> None:
    together = predictor.likelihoods(group, RegionKind.UNIQUE_PART, [LONG, NONE])
    for answer, both in zip((LONG, NONE), together, strict=True):
        (alone,) = predictor.likelihoods(group, RegionKind.UNIQUE_PART, [answer])
        assert len(alone.answer) == len(predictor._tokenizer.encode(answer))
        assert both.sum() == pytest.approx(alone.sum(), abs=1e-3)
        assert both.compat() == pytest.approx(alone.compat(), abs=1e-3)
        assert alone.mean() == pytest.approx(alone.sum() / len(alone.answer))
    # The words of the question are the same, so is their likelihood.
    assert together[0].question == pytest.approx(together[1].question, abs=1e-3)


def test_other_wordings_ask_other_questions(
    predictor: Predictor, group: ImageGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    write = prompts.conversation

    def note(question: str, *rest: Any) -> str:
        asked.append(question)
        return write(question, *rest)

    monkeypatch.setattr(prompts, "conversation", note)
    predictor.predict(group)
    predictor.predict_reworded(group, 2)
    assert asked[:3] == [prompts.QUESTIONS[kind][0] for kind in RegionKind]
    assert asked[3:] == [prompts.QUESTIONS[kind][2] for kind in RegionKind]
