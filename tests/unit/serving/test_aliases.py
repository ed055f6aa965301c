"""A label of the project and what the model calls it are one thing, whichever is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from backend.label_studio.label_config import parse_label_config
from backend.label_studio.label_set import vocabulary_in
from backend.serving.loaded_model import LoadedBase
from backend.serving.model_thread import ModelThread
from backend.serving.propagation import propagate
from backend.serving.text_prompts import QuestionAnswer, answer_question
from backend.types import TextPrompt
from calico_model.data.synthetic import Stream, draw_group, group_rng, labeled_group
from calico_model.interactive.naming.closed_set import ClosedSet
from calico_model.predictor import load_predictor
from calico_model.types import GroupPrediction, LabeledGroup, PartMask, RegionKind
from calico_model.vocabulary import Vocabulary

PART = "crown"


@pytest.fixture(scope="module")
def model() -> LoadedBase:
    return LoadedBase(load_predictor(threads=1), "f" * 64, ModelThread())


@pytest.fixture(scope="module")
def trees(model: LoadedBase) -> tuple[LabeledGroup, GroupPrediction]:
    drawn = (
        labeled_group(draw_group(group_rng(Stream.EVALUATION, 11, n), group_size=2))
        for n in range(400)
    )
    group = next(one for one in drawn if {p.label for p in one.of_kind(COMMON)} >= {PART})
    return group, model.predict(group.group)


COMMON = RegionKind.COMMON_PART


def vocabulary(label: str, alias: str) -> Vocabulary:
    found = vocabulary_in(
        parse_label_config(
            '<View><Image name="i" value="$u"/><BrushLabels name="b" toName="i">'
            f'<Label value="{label}" predicted_values="{alias}"/><Label value="bark"/>'
            "</BrushLabels></View>"
        ),
        (),
    )
    assert found is not None
    return found


def ask(
    model: LoadedBase, trees: tuple[LabeledGroup, GroupPrediction], text: str, words: Vocabulary
) -> QuestionAnswer:
    group, group_prediction = trees
    return answer_question(
        TextPrompt("q", 0, text), group.group, group_prediction, model, ClosedSet(words)
    )


@pytest.mark.parametrize("label", ["foliage", "Krone", "крона", "樹冠", "🌳", "Foliage (leaves)"])
def test_a_label_finds_what_the_model_calls_otherwise(
    model: LoadedBase, trees: tuple[LabeledGroup, GroupPrediction], label: str
) -> None:
    words = vocabulary(label, PART)
    plain = answer_question(TextPrompt("q", 0, PART), trees[0].group, trees[1], model, None)
    assert plain.prediction.parts
    for text in (label, f"segment the {label}", PART, f"the {PART}s, please"):
        reply = ask(model, trees, text, words)
        assert [one.label for one in reply.prediction.parts] == [label] * len(
            plain.prediction.parts
        )
        for ours, theirs in zip(reply.prediction.parts, plain.prediction.parts, strict=True):
            assert np.array_equal(ours.mask, theirs.mask)
        assert label in reply.sentence


def test_a_question_is_answered_in_the_projects_words(
    model: LoadedBase, trees: tuple[LabeledGroup, GroupPrediction]
) -> None:
    reply = ask(model, trees, "what do they share?", vocabulary("foliage", PART))
    assert {one.label for one in reply.prediction.parts} == {"foliage"}
    assert reply.sentence == "common part: foliage"


@pytest.mark.parametrize("label", ["foliage", "крона", "冠"])
def test_a_clicked_label_is_looked_for_by_what_the_model_calls_it(
    model: LoadedBase, trees: tuple[LabeledGroup, GroupPrediction], label: str
) -> None:
    group, group_prediction = trees
    truth = next(p for p in group.of_kind(COMMON) if p.label == PART and p.image_index == 0)
    clicked = PartMask(0, COMMON, label, truth.mask)
    plain = propagate(PartMask(0, COMMON, PART, truth.mask), group.group, group_prediction, model)
    found = propagate(clicked, group.group, group_prediction, model, vocabulary(label, PART))
    assert len(plain.parts) > 1
    assert [one.label for one in found.parts] == [label] * len(plain.parts)
    for ours, theirs in zip(found.parts, plain.parts, strict=True):
        assert np.array_equal(ours.mask, theirs.mask)
