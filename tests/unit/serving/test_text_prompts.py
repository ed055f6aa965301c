"""Typed questions are answered with regions and a sentence, whatever was typed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from backend.label_schema import LabelValue
from backend.label_studio.label_config import parse_label_config
from backend.serving.text_prompts import (
    NOTHING_KNOWN,
    answer_question,
    separate_question,
    task_labels,
)
from backend.types import Prompt, Task, TextPrompt
from calico_model.interactive.naming.closed_set import ClosedSet, Named, Outline
from calico_model.interactive.referring import Reference
from calico_model.types import GroupPrediction, ImageGroup, PartMask, RegionKind
from calico_model.vocabulary import Vocabulary
from tests.doubles import ModelDouble, reference

LABELS = Vocabulary(("leg", "seat"), {"paw": "leg"})
GROUP = ImageGroup(tuple(np.zeros((8, 8, 3), np.uint8) for _ in range(3)), ("a", "b", "c"))
BOX = (1.0, 1.0, 5.0, 5.0)


def region(image: int, label: str, kind: RegionKind = RegionKind.COMMON_PART) -> PartMask:
    return PartMask(image, kind, label, np.ones((8, 8), np.bool_), score=0.8)


SAID = GroupPrediction(
    (region(0, "seat"), region(1, "seat"), region(2, "chair", RegionKind.COMMON_OBJECT)), "v1"
)


UNKNOWN = {
    "steering leg": reference("steering leg", (), (), is_known=False, broader="leg"),
    **{name: reference(name, (), (), is_known=False) for name in ("hood", "sdfgh", "zzzz", "17")},
}


class Model(ModelDouble):
    """Finds legs on the first two images and nothing else, and calls every region one."""

    version = "v1"

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []

    def predict(self, group: ImageGroup) -> GroupPrediction:
        return SAID

    def refer(
        self,
        group: ImageGroup,
        names: Sequence[tuple[str, str | None]],
        group_prediction: GroupPrediction,
    ) -> list[Reference]:
        self.asked += names
        return [
            reference(name, (region(0, name), region(1, name)), (2,))
            if name == "leg"
            else UNKNOWN.get(name, reference(name, (), (0, 1, 2)))
            for name, _ in names
        ]

    def look_into(
        self,
        group: ImageGroup,
        image_index: int,
        box: tuple[float, float, float, float],
        group_prediction: GroupPrediction,
    ) -> PartMask:
        return region(image_index, "paws")

    def name(
        self,
        group: ImageGroup,
        outlines: Sequence[Outline],
        closed: ClosedSet,
        group_prediction: GroupPrediction | None = None,
    ) -> list[Named]:
        assert [outline.predicted_label for outline in outlines] == ["paws"]
        return [Named("leg", 0.8, (("leg", 0.8),)) for _ in outlines]


class Naming(Model):
    """Gives every region the last label, unsure as it is."""

    def name(
        self,
        group: ImageGroup,
        outlines: Sequence[Outline],
        closed: ClosedSet,
        group_prediction: GroupPrediction | None = None,
    ) -> list[Named]:
        label = closed.vocabulary.labels[-1]
        return [Named(None, 0.2, ((label, 0.2),)) for _ in outlines]


def ask(
    text: str, vocabulary: Vocabulary | None = LABELS, box: tuple[float, ...] | None = None
) -> tuple[list[tuple[int, str]], str]:
    question = TextPrompt("q", 1, text, box)  # type: ignore[arg-type]
    closed = None if vocabulary is None else ClosedSet(vocabulary)
    reply = answer_question(question, GROUP, SAID, Model(), closed)
    return [(part.image_index, part.label) for part in reply.prediction.parts], reply.sentence


def test_a_question_picks_its_kind() -> None:
    assert ask("what do they share?") == ([(0, "seat"), (1, "seat")], "common part: seat")


def test_a_question_without_regions_says_so() -> None:
    assert ask("what is different?") == ([], "no part is unique")


def test_a_name_is_outlined_and_told_absent() -> None:
    assert ask("segment the legs") == (
        [(0, "leg"), (1, "leg")],
        "leg: on images 1 (80%), 2 (80%), absent on 3",
    )


def test_what_is_taken_for_another_name_is_told() -> None:
    assert ask("hind legs")[1].startswith("leg (for 'hind legs'): on images 1")


def test_a_known_name_that_no_image_shows_is_absent() -> None:
    assert ask("wing", None) == ([], "wing: absent on every image")


@pytest.mark.parametrize("vocabulary", [None, Vocabulary(("hood", "leg"))])
def test_a_name_that_was_never_learned_is_unknown_not_absent(vocabulary: Vocabulary | None) -> None:
    assert ask("hood", vocabulary) == ([], 'I do not know "hood" yet: outline it once')


def test_a_compound_is_not_taken_for_its_last_word() -> None:
    assert ask("steering leg", None) == ([], 'I know "leg", not "steering leg": outline it once')
    assert ask("steering leg") == ([], 'I know "leg", not "steering leg"')


@pytest.mark.parametrize("text", ["sdfgh", "zzzz", "???", "please", "17"])
def test_nonsense_is_answered_as_nonsense(text: str) -> None:
    found, sentence = ask(text, None)

    assert found == []
    assert sentence == (
        f'I do not understand "{text}"; write a part\'s name, such as "seat", "chair", "handle"'
    )


def test_a_question_about_a_group_of_which_nothing_is_known_asserts_nothing() -> None:
    question = TextPrompt("q", 0, "what do they share?")
    reply = answer_question(question, GROUP, GroupPrediction((), "v1"), Model(), None)

    assert reply.sentence == NOTHING_KNOWN


def test_words_without_a_label_are_met_with_the_labels() -> None:
    found, sentence = ask("rotor and legs")
    unlike = 'no label is like "rotor"; the labels are "leg", "seat"'

    assert found == [(0, "leg"), (1, "leg")]
    assert sentence.endswith(f"; {unlike}")
    assert ask("rotor") == ([], unlike)


@pytest.mark.parametrize("text", ["x" * 300, ", ".join(f"n{k}" for k in range(20))])
def test_what_cannot_be_answered_is_explained(text: str) -> None:
    found, sentence = ask(text, None)

    assert found == []
    assert sentence.startswith("expected")


def test_a_box_is_named() -> None:
    assert ask("what is this?", None, BOX) == ([(1, "paws")], "paws (80%)")
    assert ask("what is this?", LABELS, BOX) == ([(1, "leg")], "leg (80%)")


def test_the_likeliest_label_answers_even_if_it_is_unsure() -> None:
    question = TextPrompt("q", 1, "what is this?", BOX)
    reply = answer_question(question, GROUP, SAID, Naming(), ClosedSet(LABELS))

    assert [part.label for part in reply.prediction.parts] == ["seat"]
    assert reply.sentence == "seat (20%)"


def test_pointing_at_nothing_is_explained() -> None:
    assert ask("what is this?")[1].startswith("draw a box")


def test_a_text_under_a_box_is_its_name_unless_it_asks() -> None:
    prompts = (Prompt("b", 0, BOX), Prompt("c", 0, BOX))

    assert separate_question(None, prompts) == (None, prompts)
    assert separate_question(TextPrompt("q", 0, "legs"), prompts) == (
        TextPrompt("q", 0, "legs"),
        (),
    )
    asking = TextPrompt("b", 0, "what is this?", BOX)
    assert separate_question(asking, prompts) == (asking, prompts)
    named = separate_question(TextPrompt("b", 0, "leg", BOX), prompts)
    assert named == (None, (Prompt("b", 0, BOX, label="leg"), prompts[1]))
    assert separate_question(TextPrompt("b", 0, "?", BOX), prompts) == (None, prompts)


def test_the_labels_are_those_of_the_project_or_the_task() -> None:
    config = (
        '<View><Image name="i" value="$u"/><Labels name="l" toName="i" {}</Labels>'
        '<Brush name="m" toName="i"/></View>'
    )
    closed = parse_label_config(config.format('><Label value="leg" predicted_values="paw"/>'))
    by_task = parse_label_config(config.format('value="$parts">'))
    plain, own = Task(1, 1, ()), Task(1, 1, (), labels=(LabelValue("wing"),))

    found, of_task = task_labels(closed, plain), task_labels(by_task, own)
    assert found is not None
    assert found.vocabulary == Vocabulary(("leg",), {"paw": "leg"})
    assert of_task is not None
    assert of_task.vocabulary == Vocabulary(("wing",))
    assert task_labels(by_task, plain) is None
