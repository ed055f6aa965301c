"""Labels as people and models write them, and the label set they must land in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_model.errors import InvalidConfigError
from calico_model.vocabulary import Vocabulary, match, name_of, normalise, similarity

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
        (" ", ""),
        ("\u2014", "\u2014"),
        ("+", "+"),
        ("C++", "c++"),
        ("Class A", "class a"),
        ("<5 mm", "< 5 mm"),
        ("</p>", "< p >"),
        ("कान", "कान"),
        ("कोना", "कोना"),
        ("סֵפֶר", "סֵפֶר"),
        ("می\u200cخواهم", "می\u200cخواهم"),
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
        (("leg", " leg "), {}, "are the same"),
        (("caf\u00e9", "cafe\u0301"), {}, "are the same"),
        (("leg", " "), {}, "expected a name"),
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


ALIKE = (
    ("glass", "glasses"),
    ("Wheel", "wheel"),
    ("leg", "legs"),
    ("The leg", "leg"),
    ("left-wing", "left wing"),
    ("pole +", "pole -"),
    ("C", "C++"),
    ("<5 mm", ">5 mm"),
    ("Class", "Class A"),
    ("+", "-"),
    ("\U0001f44d", "\U0001f44e"),
    ("?", "!"),
)


@pytest.mark.parametrize("pair", ALIKE)
def test_two_labels_are_never_one(pair: tuple[str, str]) -> None:
    vocabulary = Vocabulary((*pair, "other"))
    for label in pair:
        assert match(label, vocabulary) == label
        assert vocabulary.find(vocabulary.names[label]) == label
        assert vocabulary.spellings(label)[0] == vocabulary.names[label]
        assert normalise(vocabulary.names[label]) == vocabulary.names[label]
    assert not set(vocabulary.spellings(pair[0])) & set(vocabulary.spellings(pair[1]))


def test_a_key_of_several_labels_finds_none_of_them() -> None:
    vocabulary = Vocabulary(("glass", "glasses", "frame"))
    assert match("the glasses", vocabulary) is None
    assert match("a glass", vocabulary, threshold=0.5) is None
    assert match("GLASSES", vocabulary) == "glasses"
    assert match("Frames", vocabulary) == "frame"
    assert vocabulary.names["frame"] == "frame"


def test_an_alias_of_two_labels_finds_neither() -> None:
    assert match("limb", Vocabulary(("arm", "leg"), {"limb": "arm", "Limbs": "leg"})) != "leg"
    both = Vocabulary(("arm", "leg"), {"limbs": "arm", "Limb": "leg"})
    assert match("the limb", both) is None
    assert match("Limb", both) == "leg"


def test_a_name_does_not_depend_on_the_order_of_the_labels() -> None:
    one, other = Vocabulary(("glass", "glasses")), Vocabulary(("glasses", "frame", "glass"))
    assert {label: other.names[label] for label in one.labels} == one.names


def test_a_text_that_is_no_label_has_the_name_of_none() -> None:
    vocabulary = Vocabulary(("glass", "glasses", "rim"))
    assert vocabulary.name_of("The glass") not in vocabulary.names.values()
    assert vocabulary.name_of("Rims") == "rim"
    assert vocabulary.name_of("handle") == "handle"
    assert name_of("Handles", None) == "handle"


def test_similarity_knows_labels_of_symbols_and_nothing() -> None:
    assert similarity("+", "+") == 1.0
    assert similarity("+", "-") < 1.0
    assert similarity("", "leg") == 0.0
