"""Scoring a closed set along a trie: exact, length-fair, and the same as asking one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from calico_model import prompts
from calico_model.inference.images import to_pixels
from calico_model.inference.teacher_forcing import force_answers
from calico_model.interactive.naming.label_trie import Slot, build_trie, find_slots, score_slots
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.prompts import Phrase
from calico_model.tokenizer import Tokenizer
from calico_model.types import GroupPrediction, RegionKind
from calico_model.vocabulary import Vocabulary

PART = RegionKind.COMMON_PART
VOCABULARY = Vocabulary(
    ("Wheel", "wheel rim", "leg", "Zyx-qk"), {"tyre": "Wheel", "limb": "leg", "paw": "leg"}
)
BEFORE = "The images show <p> the car </p> [SEG] (IMAGE1) [SEG] (IMAGE2). Shared parts:"


@pytest.fixture
def features(model: Calico, images: list[np.ndarray]) -> ImageFeatures:
    with torch.no_grad():
        return model.encode(to_pixels(images, model.config))


def slot(kind: RegionKind = PART, before: str = BEFORE) -> Slot:
    return Slot(kind, before, "wheel", (0, 1), is_object=False)


def test_every_spelling_ends_once_and_belongs_to_its_label(tokenizer: Tokenizer) -> None:
    trie = build_trie(VOCABULARY, tokenizer)
    for label, names in {"Wheel": ("wheel", "tyre"), "leg": ("leg", "limb", "paw")}.items():
        owner = VOCABULARY.labels.index(label)
        ends = trie.ends[trie.owners == owner]
        written = {tuple(trie.tokens[trie.ancestors[end]].tolist()) for end in ends}
        expected = {
            tuple(tokenizer.encode(f"{prompts.PHRASE_START} the {name} {prompts.PHRASE_END}"))
            for name in names
        }
        assert written == expected


def test_equal_beginnings_are_one_node(tokenizer: Tokenizer) -> None:
    trie = build_trie(VOCABULARY, tokenizer)
    pairs = list(zip(trie.parents.tolist(), trie.tokens.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)


def test_chances_are_normalised_over_the_set(
    model: Calico, tokenizer: Tokenizer, features: ImageFeatures
) -> None:
    trie = build_trie(VOCABULARY, tokenizer)
    rows = score_slots(model, tokenizer, features, [slot(), slot(RegionKind.UNIQUE_PART)], trie)
    assert rows.shape == (2, 4)
    assert rows.exp().sum(1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


def test_one_batch_equals_asking_for_one_candidate_after_the_other(
    model: Calico, tokenizer: Tokenizer, features: ImageFeatures
) -> None:
    """The oracle: teacher-forced likelihoods of every spelling, renormalised at every branch."""
    names = {"Wheel": ("wheel", "tyre"), "leg": ("leg", "limb", "paw")}
    vocabulary = Vocabulary(tuple(names), {"tyre": "Wheel", "limb": "leg", "paw": "leg"})
    later = f"{BEFORE} <p> the seat </p> [SEG] (IMAGE1) [SEG] (IMAGE2) and"
    slots = [slot(before=BEFORE), slot(before=later)]
    rows = score_slots(model, tokenizer, features, slots, build_trie(vocabulary, tokenizer))
    for row, one in zip(rows, slots, strict=True):
        expected = forced_chances(model, tokenizer, features, one, names)
        assert row.exp().tolist() == pytest.approx(expected, abs=1e-4)


def forced_chances(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    one: Slot,
    names: dict[str, tuple[str, ...]],
) -> list[float]:
    written = [n for some in names.values() for n in some]
    tokens = {n: tokenizer.encode(f"<p> the {n} </p>") for n in written}
    start = len(tokenizer.encode(one.before))
    question = prompts.QUESTIONS[one.kind][0]
    answers = [f"{one.before} <p> the {n} </p>" for n in written]
    read = force_answers(model, tokenizer, features, [question] * len(answers), answers)
    step: dict[tuple[int, ...], float] = {}
    for name, likelihood in zip(written, read.likelihoods, strict=True):
        for depth, chance in enumerate(likelihood.answer[start:]):
            step[tuple(tokens[name][: depth + 1])] = chance

    def path(name: str) -> float:
        total = 0.0
        for depth in range(len(tokens[name])):
            siblings = {
                s for s in step if len(s) == depth + 1 and s[:-1] == tuple(tokens[name][:depth])
            }
            total += step[tuple(tokens[name][: depth + 1])]
            total -= math.log(sum(math.exp(step[s]) for s in siblings))
        return math.exp(total)

    return [sum(path(n) for n in some) for some in names.values()]


def test_a_spelled_name_costs_nothing_where_it_is_alone(
    model: Calico, tokenizer: Tokenizer, features: ImageFeatures
) -> None:
    only = build_trie(Vocabulary(("zyxwvut srqponm",)), tokenizer)
    assert score_slots(model, tokenizer, features, [slot()], only).exp().tolist() == [[1.0]]


def test_slots_are_the_phrases_of_the_answers() -> None:
    objects = [Phrase("car", (0, 1), is_object=True)]
    parts = [Phrase("wheel", (0, 1), is_object=False), Phrase("door", (0, 1), is_object=False)]
    text = prompts.write_answer(PART, objects, parts)
    phrases = prompts.locate_phrases(PART, text, [*objects, *parts])
    found = find_slots(GroupPrediction((), "v", {PART.value: text}, phrases))
    assert [(one.label, one.is_object, one.images) for one in found] == [
        ("car", True, (0, 1)),
        ("wheel", False, (0, 1)),
        ("door", False, (0, 1)),
    ]
    for one in found:
        assert text.startswith(f"{one.before} <p> the {one.label} </p>")
