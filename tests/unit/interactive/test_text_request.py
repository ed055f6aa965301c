"""What annotators type, read as one of the questions, as names, or as "what is this?"."""

from __future__ import annotations

import pytest

from calico_model.errors import UnclearRequestError
from calico_model.interactive.text_request import (
    Request,
    Thing,
    is_nonsense,
    read_request,
    unknown_words,
)
from calico_model.prompts import QUESTIONS
from calico_model.types import RegionKind
from calico_model.vocabulary import Vocabulary

LABELS = Vocabulary(
    ("chair", "leg", "front wheel", "back wheel", "top of the table", "black and white"),
    {"paw": "leg"},
)


def labels_of(text: str, vocabulary: Vocabulary | None = None) -> list[tuple[str, ...]]:
    return [thing.labels for thing in read_request(text, vocabulary).things]


@pytest.mark.parametrize(
    ("kind", "text"), [(kind, text) for kind, texts in QUESTIONS.items() for text in texts]
)
def test_every_wording_the_model_knows_asks_its_question(kind: RegionKind, text: str) -> None:
    assert read_request(text, LABELS) == Request(kinds=(kind,))


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("what is different?", (RegionKind.UNIQUE_PART,)),
        ("The differences, please", (RegionKind.UNIQUE_PART,)),
        ("What do these have in common?", (RegionKind.COMMON_PART,)),
        ("which object do they share", (RegionKind.COMMON_OBJECT,)),
        ("segment the object", (RegionKind.COMMON_OBJECT,)),
        ("segment the parts", (RegionKind.COMMON_PART, RegionKind.UNIQUE_PART)),
    ],
)
def test_questions_in_other_words(text: str, kinds: tuple[RegionKind, ...]) -> None:
    assert read_request(text) == Request(kinds=kinds)


@pytest.mark.parametrize(
    "text", ["what is this?", "What's this part called?", "name it", "which part is this"]
)
def test_pointing_asks_for_a_name(text: str) -> None:
    assert read_request(text, LABELS) == Request(asks_name=True)


@pytest.mark.parametrize(
    "text",
    ["leg", "Legs", "LEG!", "segment the legs", "where are the legs?", "please show me every leg"]
    + ["the common legs", "legs in all images", "can you find any legs here?"],
)
def test_a_name_is_found_in_what_is_around_it(text: str) -> None:
    for vocabulary in (None, LABELS):
        assert labels_of(text, vocabulary) == [("leg",)]


@pytest.mark.parametrize("text", ["the leg of the red chair", "the red chair's legs"])
def test_an_owner_is_read_apart_from_its_part(text: str) -> None:
    (thing,) = read_request(text).things
    assert (thing.labels, thing.owner) == (("leg",), "red chair")


def test_several_names_are_several_things() -> None:
    assert labels_of("legs, seats and the back; arm") == [("leg",), ("seat",), ("back",), ("arm",)]


@pytest.mark.parametrize("label", ["top of the table", "black and white"])
def test_a_label_with_joining_words_stays_whole(label: str) -> None:
    assert labels_of(f"segment the {label}", LABELS) == [(label,)]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("paws", ("leg",)),  # an alias
        ("front weel", ("front wheel",)),  # a typo
        ("hind legs", ("leg",)),  # a kind of it
        ("wheels", ("front wheel", "back wheel")),  # kinds of which there are
        ("frontal wheel", ("front wheel",)),  # the most alike
    ],
)
def test_words_are_taken_for_the_label_they_mean(text: str, labels: tuple[str, ...]) -> None:
    assert labels_of(text, LABELS) == [labels]


def test_what_has_no_label_says_which_there_are() -> None:
    request = read_request("tentacle and leg", LABELS)

    assert [thing.labels for thing in request.things] == [(), ("leg",)]
    assert unknown_words(request.things, LABELS) == (
        'no label is like "tentacle"; the labels are "chair", "leg", '
        '"front wheel", "back wheel", "top of the table", "black and white"'
    )
    assert unknown_words(request.things[1:], LABELS) is None


def test_a_compound_is_no_kind_of_its_last_word() -> None:
    request = read_request("steering wheel and table leg", Vocabulary(("wheel", "leg")))

    assert [(thing.labels, thing.broader) for thing in request.things] == [
        ((), "wheel"),
        ((), "leg"),
    ]
    assert unknown_words(request.things, LABELS) == (
        'I know "wheel", not "steering wheel"; I know "leg", not "table leg"'
    )


@pytest.mark.parametrize("text", ["sdfgh", "xxxxl", "qwrt", "123", "..."])
def test_what_nobody_can_speak_is_nonsense(text: str) -> None:
    assert is_nonsense(text)


@pytest.mark.parametrize("text", ["leg", "hood", "rhythm", "strap", "a 4th leg", "Stuhlbein", "足"])
def test_words_are_no_nonsense(text: str) -> None:
    assert not is_nonsense(text)


def test_a_thing_knows_whether_it_was_taken_for_another() -> None:
    assert Thing("Legs", ("leg",)).is_literal
    assert not Thing("hind legs", ("leg",)).is_literal


@pytest.mark.parametrize("text", ["", "  ", "please", "the", "?!", "x" * 201])
def test_a_text_without_a_wish_is_refused(text: str) -> None:
    with pytest.raises(UnclearRequestError, match="request: expected"):
        read_request(text)
