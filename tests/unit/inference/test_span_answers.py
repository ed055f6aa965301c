"""Answers lose their tags and get them back; regions of words are those of the same [SEG]s."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from calico_model import prompts
from calico_model.errors import CheckpointError
from calico_model.inference.generation import predict_regions
from calico_model.inference.images import to_pixels
from calico_model.inference.span_answers import (
    images_behind,
    mark_phrases,
    plain_answer,
    pool_phrase,
    span_head_of,
)
from calico_model.inference.teacher_forcing import draw_answers
from calico_model.loading.checkpoints import save_model
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.modeling.span_head import Tag
from calico_model.predictor import load_predictor
from calico_model.prompts import Phrase
from calico_model.tokenizer import Tokenizer
from calico_model.types import RegionKind

OBJECTS = [Phrase("chair", (0, 1), True)]
PARTS = [Phrase("seat", (0, 1), False), Phrase("backrest", (1,), False)]
ANSWER = prompts.write_answer(RegionKind.COMMON_PART, OBJECTS, PARTS)


def test_an_answer_loses_its_tags_and_gets_them_back(tokenizer: Tokenizer) -> None:
    plain = plain_answer(tokenizer.encode(ANSWER), tokenizer)

    words = tokenizer.decode(plain.ids)
    assert "[SEG]" not in words
    assert "<p>" not in words
    assert [tokenizer.decode(plain.ids[a:b]).strip() for a, b in plain.spans] == [
        "the chair",
        "the seat",
        "the backrest",
    ]
    assert images_behind(plain.ids, plain.spans, tokenizer) == [(0, 1), (0, 1), (1,)]
    text = mark_phrases(plain.ids, plain.spans, tokenizer)
    parsed = prompts.parse_answer(RegionKind.COMMON_PART, text)
    assert parsed.phrases == (*OBJECTS, *PARTS)
    assert (parsed.malformed, parsed.segments) == (0, 5)


def test_an_answer_that_names_nothing_stays_as_it_is(tokenizer: Tokenizer) -> None:
    answer = prompts.write_answer(RegionKind.COMMON_OBJECT, [], [])
    plain = plain_answer(tokenizer.encode(answer), tokenizer)

    assert plain.spans == ()
    assert images_behind(plain.ids, plain.spans, tokenizer) == []
    assert mark_phrases(plain.ids, plain.spans, tokenizer) == "The images share no object."


def test_the_article_is_no_part_of_a_query(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the seat")
    tokens = torch.arange(float(len(ids)))[:, None]

    assert pool_phrase(tokens, ids, (0, 2), tokenizer).item() == 1.0
    assert pool_phrase(tokens, ids, (1, 2), tokenizer).item() == 1.0


@pytest.fixture
def tagging(model: Calico) -> Calico:
    """A model that takes its regions from words; an untrained head tags nothing right."""
    model.config = replace(model.config, query_source="span")
    torch.manual_seed(0)
    model.add_on(["span_head"])
    return model.eval()


@pytest.fixture
def features(model: Calico, images: list[np.ndarray]) -> ImageFeatures:
    with torch.no_grad():
        return model.encode(to_pixels(images[:2], model.config))


def tag_the_names(model: Calico, monkeypatch: pytest.MonkeyPatch, answer: str, to: Tokenizer):
    """Has the tagger mark what the tags of the answer mark."""
    plain = plain_answer(to.encode(answer), to)
    logits = torch.zeros(1, len(plain.ids), 3)
    logits[..., Tag.OUTSIDE] = 5.0
    for first, end in plain.spans:
        logits[0, first, Tag.BEGIN] = logits[0, first + 1 : end, Tag.INSIDE] = 10.0
    assert model.span_head is not None
    monkeypatch.setattr(model.span_head, "tag", lambda states, is_token: logits)


def test_every_name_with_an_image_behind_it_becomes_a_region(
    tagging: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    images: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tag_the_names(tagging, monkeypatch, ANSWER, tokenizer)
    sizes = [image.shape[:2] for image in images[:2]]

    parts = draw_answers(tagging, tokenizer, features, sizes, {RegionKind.COMMON_PART: ANSWER})

    assert [(p.label, p.image_index) for p in parts] == [
        ("seat", 0),
        ("seat", 1),
        ("backrest", 1),
    ]


def test_generated_answers_are_read_too(
    tagging: Calico, tokenizer: Tokenizer, features: ImageFeatures, images: list[np.ndarray]
) -> None:
    sizes = [image.shape[:2] for image in images[:2]]

    predicted = predict_regions(tagging, tokenizer, features, sizes)

    assert set(predicted.texts) == set(RegionKind)
    assert all("[SEG]" not in text or "<p>" in text for text in predicted.texts.values())


def test_weights_without_a_head_are_refused(tmp_path: Path, tokenizer: Tokenizer, model: Calico):
    with pytest.raises(CheckpointError, match="no span head"):
        span_head_of(model)

    model.config = replace(model.config, query_source="span")
    save_model(model, tokenizer, tmp_path / "model", dtype=torch.float32)
    with pytest.raises(CheckpointError, match="calico train-spans"):
        load_predictor(tmp_path / "model")

    model.add_on(["span_head"])
    save_model(model, tokenizer, tmp_path / "model", dtype=torch.float32)
    assert load_predictor(tmp_path / "model").version.endswith("-span")


def test_a_head_that_is_not_asked_changes_no_bit(
    model: Calico, tokenizer: Tokenizer, features: ImageFeatures, images: list[np.ndarray]
) -> None:
    sizes = [image.shape[:2] for image in images[:2]]
    answers = {RegionKind.COMMON_PART: ANSWER}
    without = draw_answers(model, tokenizer, features, sizes, answers)

    model.add_on(["span_head"])
    with_head = draw_answers(model, tokenizer, features, sizes, answers)

    assert [(p.label, p.image_index, p.score) for p in with_head] == [
        (p.label, p.image_index, p.score) for p in without
    ]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(with_head, without, strict=True))
