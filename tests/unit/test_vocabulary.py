"""Labels as people and models write them, and the label set they must land in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_model.errors import InvalidConfigError
from calico_model.vocabulary import Vocabulary, match, normalise, similarity

CHAIR = Vocabulary(
    labels=("Leg", "Seat back", "Arm rest", "Front wheel", "Headlight", "Left leg", "Right leg"),
    aliases={"backrest": "Seat back", "chair feet": "Leg", "lamp": "Headlight"},
)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("The  Front_Wheels!", "front wheel"),
        ("chair:seat cushion", "chair seat cushion"),
        ("a", "a"),
        ("An ear", "ear"),
        ("dog's head", "dog head"),
        ("legs of the table", "leg of table"),
        ("T-shirt", "t shirt"),
        ("", ""),
        ("\u2014", ""),
    ],
)
def test_normal_form(label: str, expected: str) -> None:
    assert normalise(label) == expected


@pytest.mark.parametrize(
    ("plural", "singular"),
    [
        ("legs", "leg"),
        ("bodies", "body"),
        ("feet", "foot"),
        ("boxes", "box"),
        ("torches", "torch"),
        ("brushes", "brush"),
        ("noses", "nose"),
        ("houses", "house"),
        ("lenses", "lens"),
        ("buses", "bus"),
        ("cactuses", "cactus"),
        ("shoes", "shoe"),
        ("potatoes", "potato"),
        ("knives", "knife"),
        ("gloves", "glove"),
        ("ties", "tie"),
        ("sizes", "size"),
    ],
)
def test_plurals_become_singular(plural: str, singular: str) -> None:
    assert normalise(plural) == singular
    assert normalise(singular) == singular


@pytest.mark.parametrize("word", ["glass", "chassis", "lens", "gas", "bus", "scissors", "is", "us"])
def test_singulars_in_s_stay(word: str) -> None:
    assert normalise(word) == word


@given(st.text(max_size=30))
def test_normalising_twice_changes_nothing(label: str) -> None:
    assert normalise(normalise(label)) == normalise(label)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Leg", "Leg"),
        ("legs", "Leg"),
        ("the leg", "Leg"),
        ("seat_back", "Seat back"),
        ("backrests", "Seat back"),
        ("Chair Feet", "Leg"),
        ("armrest", "Arm rest"),
        ("hedlight", "Headlight"),
        ("haedlight", "Headlight"),
        ("front weel", "Front wheel"),
        ("rear wheel", None),
        ("peg", None),
        ("left lag", None),
        ("propeller", None),
        ("", None),
    ],
)
def test_text_lands_on_the_label_it_means(text: str, expected: str | None) -> None:
    assert match(text, CHAIR) == expected


def test_exact_label_wins_over_its_normal_form() -> None:
    vocabulary = Vocabulary(("wheel", "tyre"), aliases={"wheels": "tyre"})
    assert match("wheel", vocabulary) == "wheel"
    assert match("Wheels", vocabulary) == "wheel"


def test_two_equally_close_labels_match_neither() -> None:
    assert match("handla", Vocabulary(("handle", "handly"))) is None


def test_different_numbers_are_different_labels() -> None:
    assert match("wheel 2", Vocabulary(("wheel 1", "wheel 3"))) is None


def test_a_higher_threshold_refuses_more() -> None:
    assert match("front weel", CHAIR, threshold=0.9) is None


@pytest.mark.parametrize(
    ("labels", "aliases", "message"),
    [
        (("leg", "Legs"), {}, "mean the same"),
        (("leg", "?!"), {}, "with letters"),
        (("leg",), {"paw": "foot"}, "unknown label 'foot'"),
    ],
)
def test_contradictory_vocabulary_is_refused(
    labels: tuple[str, ...], aliases: dict[str, str], message: str
) -> None:
    with pytest.raises(InvalidConfigError, match=message):
        Vocabulary(labels, aliases)


def test_similarity_orders_labels_by_spelling() -> None:
    assert similarity("legs", "The leg") == 1.0
    assert similarity("front wheel", "rear wheel") > similarity("front wheel", "rear window")
    assert similarity("wheel", "nose") == 0.0
    assert similarity("", "") == 1.0
    assert similarity("", "leg") == 0.0


def test_similarity_is_the_same_on_every_machine() -> None:
    # All 4 + 3 + 2 grams of " gear " are among the 12 + 11 + 10 of " landing gear ".
    assert similarity("landing gear", "gear") == pytest.approx((9 / 33) ** 0.5)


@given(st.text(max_size=12), st.text(max_size=12))
def test_similarity_is_symmetric_and_bounded(left: str, right: str) -> None:
    value = similarity(left, right)
    assert value == similarity(right, left)
    assert 0.0 <= value <= 1.0 + 1e-9
