"""Captions: what is written of regions, where its phrases are, and how edited texts are linked."""

from __future__ import annotations

import json

import numpy as np
import pytest

from calico_model import prompts
from calico_model.data.grounded_caption import as_grounded, hierarchy_of, tagged_text
from calico_model.inference.caption import (
    Caption,
    Level,
    colour_name,
    compose_caption,
    link_caption,
    owners_of,
)
from calico_model.types import PartMask, RegionKind

RED, BLUE, GREEN = (220, 20, 20), (20, 30, 220), (20, 180, 40)
OBJECT, COMMON, UNIQUE = RegionKind.COMMON_OBJECT, RegionKind.COMMON_PART, RegionKind.UNIQUE_PART


def mask(rows, columns):
    drawn = np.zeros((40, 40), bool)
    drawn[rows[0] : rows[1], columns[0] : columns[1]] = True
    return drawn


BODY, HANDLE, LID = mask((5, 35), (5, 35)), mask((15, 25), (5, 12)), mask((5, 10), (15, 25))


@pytest.fixture
def scene():
    """Two pots with handles of two colours; one has a lid, the other a picture beside it."""
    images = [np.full((40, 40, 3), 250, np.uint8) for _ in range(2)]
    for image, handle in zip(images, (RED, GREEN), strict=True):
        image[BODY], image[HANDLE] = BLUE, handle
    images[1][LID] = RED
    parts = (
        PartMask(0, OBJECT, "teapot", BODY),
        PartMask(1, OBJECT, "teapot", BODY),
        PartMask(0, COMMON, "handle", HANDLE, "teapot"),
        PartMask(1, COMMON, "handle", HANDLE),
        PartMask(1, UNIQUE, "lid", LID, "teapot"),
        PartMask(1, UNIQUE, "arrow", mask((0, 3), (0, 9))),
    )
    return parts, images


def test_a_caption_names_objects_parts_and_attributes(scene):
    assert compose_caption(*scene).text == (
        "Both images show a large teapot (blue). "
        "It has a handle (red in image 1, green in image 2). "
        "Only image 2 shows its lid (red). "
        "Image 2 shows an arrow (white)."
    )


def test_phrases_have_their_places_masks_and_parents(scene):
    caption = compose_caption(*scene)
    found = [(p.level, caption.words(p), p.regions, p.parent) for p in caption.phrases]
    assert found == [
        (Level.OBJECT, "teapot", (0, 1), None),
        (Level.ATTRIBUTE, "large", (0, 1), 0),
        (Level.ATTRIBUTE, "blue", (0, 1), 0),
        (Level.PART, "handle", (2, 3), 0),
        (Level.ATTRIBUTE, "red", (2,), 3),
        (Level.ATTRIBUTE, "green", (3,), 3),
        (Level.PART, "lid", (4,), 0),
        (Level.ATTRIBUTE, "red", (4,), 6),
        (Level.PART, "arrow", (5,), None),
        (Level.ATTRIBUTE, "white", (5,), 8),
    ]


def test_nothing_named_is_an_empty_caption(scene):
    _, images = scene
    nameless = PartMask(0, COMMON, "", HANDLE)
    empty = PartMask(0, COMMON, "lid", HANDLE & False)
    assert compose_caption((nameless, empty), images) == Caption("", ())


def test_parts_belong_to_the_object_around_them(scene):
    parts, _ = scene
    assert owners_of(parts) == (None, None, 0, 1, 1, None)


def test_an_edited_text_is_linked_by_names(scene):
    parts, _ = scene
    text = "The Teapots are old; one handle is broken, and the lid handle is not."
    caption = link_caption(text, (*parts, PartMask(1, COMMON, "lid handle", HANDLE)))
    found = [(p.level, caption.words(p), p.regions, p.parent) for p in caption.phrases]
    assert found == [
        (Level.OBJECT, "Teapots", (0, 1), None),
        (Level.PART, "handle", (2, 3), 0),
        (Level.PART, "lid handle", (6,), 0),
    ]
    assert caption.text == text


def test_a_text_about_something_else_has_no_phrases(scene):
    assert link_caption("A sunny day.", scene[0]).phrases == ()


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        (RED, "red"),
        (BLUE, "blue"),
        (GREEN, "green"),
        ((250, 210, 30), "yellow"),
        ((240, 130, 20), "orange"),
        ((110, 65, 20), "brown"),
        ((10, 10, 12), "black"),
        ((250, 250, 248), "white"),
        ((128, 128, 130), "grey"),
        ((20, 200, 200), "turquoise"),
        ((120, 30, 170), "purple"),
        ((250, 170, 190), "pink"),
    ],
)
def test_colours_have_their_plain_names(colour, name):
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, :2] = colour
    assert colour_name(image, mask((0, 4), (0, 2))[:4, :4]) == name


def test_the_hierarchy_goes_from_object_to_part_to_attribute(scene):
    teapot, arrow = hierarchy_of(compose_caption(*scene))
    assert (teapot["phrase"], teapot["level"], teapot["ids"]) == ("teapot", "object", [1, 2])
    assert [one["phrase"] for one in teapot["attributes"]] == ["large", "blue"]
    assert [one["phrase"] for one in teapot["parts"]] == ["handle", "lid"]
    assert teapot["parts"][0]["attributes"] == [
        {"phrase": "red", "ids": [3]},
        {"phrase": "green", "ids": [4]},
    ]
    assert (arrow["phrase"], arrow["level"]) == ("arrow", "part")


def test_the_conversation_is_in_the_grammar_of_the_model(scene):
    caption = compose_caption(*scene)
    parsed = prompts.parse_answer(COMMON, tagged_text(caption, scene[0]))
    assert parsed.malformed == 0
    assert [(phrase.label, phrase.images) for phrase in parsed.phrases] == [
        ("teapot", (0, 1)),
        ("handle", (0, 1)),
        ("lid", (1,)),
        ("arrow", (1,)),
    ]


def test_the_document_can_be_read_back(scene):
    parts, images = scene
    caption = compose_caption(parts, images)
    sizes = [image.shape[:2] for image in images]
    document = json.loads(json.dumps(as_grounded(caption, parts, ["a.png", "b.png"], sizes)))
    assert [image["file_name"] for image in document["images"]] == ["a.png", "b.png"]
    for detail in document["details"]:
        start, end = detail["tokens_positive"]
        assert document["caption"][start:end] == detail["phrase"]
    region = document["regions"][2]
    assert (region["label"], region["image_id"], region["object_id"]) == ("handle", 1, 1)
    assert (region["area"], region["bbox"]) == (70, [5.0, 15.0, 7.0, 10.0])
    human, gpt = document["conversation"]
    assert human["value"].count("<image>") == 2
    assert gpt["value"].count("[SEG]") == 6
