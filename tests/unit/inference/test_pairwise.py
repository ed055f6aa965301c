"""A group compared two images at a time: what single answers add up to."""

from __future__ import annotations

from dataclasses import astuple, replace

import pytest
import torch

from calico_model import prompts
from calico_model.inference.dense_detection import DenseDetections, Detection
from calico_model.inference.generation import predict_regions
from calico_model.inference.images import to_pixels
from calico_model.inference.pairwise import (
    GeneratedAnswer,
    GroupQuestion,
    merge_pairwise_answers,
    questions_in_pairs,
)
from calico_model.inference.segments import Segment
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.types import RegionKind
from tests.unit.test_predictor import Scripted

OBJECT, COMMON, UNIQUE = RegionKind


def said(
    kind: RegionKind, images: tuple[int, ...], names: dict[str, dict[int, float]], owner="chair"
) -> GeneratedAnswer:
    """An answer that names things on images, with their certainties."""
    segments = tuple(
        Segment(kind, name, k, None if kind is OBJECT else owner, torch.tensor([chance]), chance)
        for name, places in names.items()
        for k, chance in places.items()
    )
    return GeneratedAnswer(
        GroupQuestion(kind, images), "", prompts.parse_answer(kind, ""), segments
    )


def found(answers: list[GeneratedAnswer], images: int) -> set[tuple[RegionKind, str, int]]:
    segments = merge_pairwise_answers(answers, images).segments
    return {(s.kind, s.label, s.image) for s in segments}


@pytest.mark.parametrize(
    ("images", "pairs"),
    [
        (1, {(0, 0)}),
        (2, {(0, 0), (1, 1), (0, 1)}),
        (4, {(0, 0), (1, 1), (2, 2), (3, 3), (0, 1), (1, 2), (2, 3), (3, 0)}),
    ],
)
def test_every_image_is_shown_beside_itself_and_the_next(images, pairs):
    asked = questions_in_pairs(images)
    assert {question.images for question in asked} == pairs
    assert len(set(asked)) == len(asked)
    for question in asked:
        # Beside itself nothing is unique.
        assert question.kind is not UNIQUE or len(set(question.images)) == 2


def test_what_all_show_is_common_and_what_one_shows_is_unique():
    answers = [
        said(COMMON, (0, 0), {"leg": {0: 0.9}, "seat": {0: 0.9}, "arm": {0: 0.9}}),
        said(COMMON, (1, 1), {"leg": {1: 0.9}, "arm": {1: 0.9}}),
        said(COMMON, (0, 1), {"arm": {0: 0.9, 1: 0.9}}),
        said(COMMON, (2, 2), {"leg": {2: 0.9}}),
        said(OBJECT, (0, 1), {"chair": {0: 0.9, 1: 0.9}}),
        said(OBJECT, (1, 2), {"chair": {1: 0.9, 2: 0.9}, "dog": {1: 0.9, 2: 0.9}}),
    ]
    assert found(answers, 3) == {
        *((OBJECT, "chair", k) for k in range(3)),
        *((COMMON, "leg", k) for k in range(3)),
        (UNIQUE, "seat", 0),  # the arm is in two of three: neither
    }


def test_one_slip_elsewhere_does_not_take_uniqueness_away():
    seat = [said(COMMON, (0, 0), {"seat": {0: 0.9}}), said(COMMON, (1, 1), {"seat": {1: 0.9}})]
    assert found(seat, 3) == set()  # nothing says which of the two it is
    again = [*seat, said(UNIQUE, (1, 2), {"seat": {1: 0.9}})]
    assert found(again, 3) == {(UNIQUE, "seat", 1)}
    # What a second answer says of the other image is no slip.
    both = [*again, said(UNIQUE, (2, 0), {"seat": {0: 0.8}})]
    assert found(both, 3) == set()
    assert found(seat, 2) == {(COMMON, "seat", 0), (COMMON, "seat", 1)}


def test_unsure_answers_add_up_over_pairs_but_not_within_one():
    once = [said(COMMON, (0, 0), {"leg": {0: 0.5}})]
    assert found(once, 1) == set()
    # Common and unique in one and the same pair: one mention, the surer one.
    twice_in_one = [
        said(COMMON, (0, 1), {"leg": {0: 0.5}}),
        said(UNIQUE, (0, 1), {"leg": {0: 0.6}}),
    ]
    assert found(twice_in_one, 2) == set()
    assert found([*twice_in_one, *once], 2) == {(UNIQUE, "leg", 0)}


def test_the_surest_answer_draws_the_mask_and_the_objects_are_voted_on():
    answers = [
        said(COMMON, (0, 0), {"leg": {0: 0.8}}, owner="stool"),
        said(COMMON, (0, 1), {"leg": {0: 0.9, 1: 0.9}}, owner="chair"),
    ]
    merged = merge_pairwise_answers(answers, 2)
    segments, texts = merged.segments, merged.texts
    assert [float(s.state[0]) for s in segments] == pytest.approx([0.9, 0.9])
    assert [s.object_label for s in segments] == ["chair", "chair"]
    parsed = prompts.parse_answer(COMMON, texts[COMMON])
    assert [(p.label, p.images, p.is_object) for p in parsed.phrases] == [
        ("chair", (0, 1), True),
        ("leg", (0, 1), False),
    ]
    assert prompts.parse_answer(UNIQUE, texts[UNIQUE]).phrases[0].label == "chair"
    assert prompts.parse_answer(OBJECT, texts[OBJECT]).phrases == ()


def test_the_phrases_are_those_that_the_text_would_be_parsed_to():
    names = {"leg": {0: 0.9, 1: 0.9}, "a </p>. <p> b": {0: 0.9, 1: 0.9}}
    answers = [
        said(COMMON, (0, 1), names, owner="st. bernard"),
        said(UNIQUE, (0, 1), {"seat": {0: 0.9}}, owner="st. bernard"),
        said(OBJECT, (0, 1), {"chair": {0: 0.9, 1: 0.9}}),
    ]
    merged = merge_pairwise_answers(answers, 2)
    parsed = [
        (kind, phrase.label, phrase.images, phrase.is_object, start)
        for kind in RegionKind
        for found in [prompts.parse_answer(kind, merged.texts[kind])]
        for phrase, start in zip(found.phrases, found.starts, strict=True)
    ]
    assert [astuple(phrase) for phrase in merged.phrases] == parsed
    assert len(parsed) == 6


def test_nothing_said_is_nothing_found():
    merged = merge_pairwise_answers([said(COMMON, (0, 0), {})], 1)
    assert merged.segments == []
    assert set(merged.texts) == set(RegionKind)
    assert merged.phrases == ()


def test_the_configuration_decides_how_a_group_is_asked_about(tokenizer: Tokenizer, model: Calico):
    features = model.encode(_pixels(model, 2))
    scripted = model
    scripted.__class__ = Scripted
    scripted.tokenizer, scripted.asked, scripted.decoded = tokenizer, [], []
    leg = "<p> the chair </p> [SEG] (IMAGE1). <p> the leg </p> [SEG] (IMAGE1). </s>"
    rows = len(questions_in_pairs(2))
    for in_pairs, count in ((True, rows), (False, 3)):
        model.config = replace(model.config, asks_in_pairs=in_pairs)
        scripted.answers, scripted.chances = (leg,) * count, (0.9,) * count
        predicted = predict_regions(model, tokenizer, features, [(40, 40), (40, 40)])
        assert set(predicted.texts) == set(RegionKind)
    assert [len(asked.guidance) for asked in scripted.asked] == [rows, 3]


def _pixels(model: Calico, count: int):
    rng = torch.Generator().manual_seed(1)
    images = [
        torch.randint(0, 255, (40, 40, 3), generator=rng, dtype=torch.uint8).numpy()
        for _ in range(count)
    ]
    return to_pixels(images, model.config)


def seen(label: str, image: int, certainty: float = 0.9, *, is_object: bool = False) -> Detection:
    return Detection(
        image, label, is_object, certainty, certainty, torch.full((4, 4), 3.0), torch.ones(2, 2)
    )


def reading(*several: Detection, parts: tuple[str, ...] = (), objects: tuple[str, ...] = ()):
    return DenseDetections(several, frozenset(parts), frozenset(objects))


def regions(answers: list[GeneratedAnswer], told: DenseDetections, images: int = 2):
    merged = merge_pairwise_answers(answers, images, told)
    return {(s.kind, s.label, s.image): s for s in merged.segments}, merged.texts


def test_what_is_seen_is_there_though_nobody_said_it():
    told = reading(seen("fin", 0), seen("fin", 1), seen("horn", 1), seen("fish", 0, is_object=True))
    found, texts = regions([], told)
    assert set(found) == {(COMMON, "fin", 0), (COMMON, "fin", 1), (UNIQUE, "horn", 1)}
    assert all(one.state is None and one.logits is not None for one in found.values())
    assert found[COMMON, "fin", 0].object_label == "fish"
    assert "fin" in texts[COMMON]
    assert not regions([], reading(seen("fin", 0, 0.4), seen("fin", 1, 0.4)))[0]


def test_what_is_said_has_the_mask_that_is_seen():
    told = reading(seen("leg", 0), parts=("leg",))
    both = [said(COMMON, (k, k), {"leg": {k: 0.9}, "seat": {k: 0.9}}) for k in (0, 1)]
    unknown = [said(COMMON, (0, 1), {"seat": {0: 0.9, 1: 0.9}})]
    found, _ = regions([*both, *unknown], reading(seen("leg", 0), seen("leg", 1), parts=("leg",)))
    assert found[COMMON, "leg", 0].state is not None
    assert found[COMMON, "leg", 0].logits is not None
    # A name that nobody corrected with has to be said more than once ...
    assert (COMMON, "seat", 0) not in found
    # ... and one that would be seen has to be.
    found, _ = regions(both, told)
    assert {(kind, label) for kind, label, _ in found} == {(UNIQUE, "leg")}


def test_objects_nobody_named_are_left_to_the_answers():
    chairs = [said(OBJECT, (k, k), {"chair": {k: 0.9}}) for k in (0, 1)]
    found, _ = regions(chairs, reading(seen("leg", 0), parts=("leg",)))
    assert (OBJECT, "chair", 0) in found


def test_little_is_made_of_a_head_that_has_not_learned():
    answers = [said(COMMON, (k, k), {"leg": {k: 0.9}}) for k in (0, 1)]
    poor = replace(reading(seen("fin", 0), seen("fin", 1), parts=("leg", "fin")), trust=0.1)
    found, _ = regions(answers, poor)
    assert {label for _, label, _ in found} == {"leg"}
    half = replace(reading(seen("leg", 0), seen("leg", 1), parts=("leg",)), trust=0.3)
    found, _ = regions(answers, half)
    assert found[COMMON, "leg", 0].logits is None  # the answer's own mask
