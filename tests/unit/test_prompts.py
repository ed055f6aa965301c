from __future__ import annotations

import random

import pytest

from calico_model import prompts
from calico_model.prompts import Phrase
from calico_model.types import RegionKind

CHAIR = Phrase("chair", (0, 1), True)
LEG = Phrase("leg", (0, 1), False)
BACK = Phrase("seat back", (1,), False)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("kind", "objects", "parts"),
    [
        (RegionKind.COMMON_OBJECT, [CHAIR], []),
        (RegionKind.COMMON_OBJECT, [CHAIR, Phrase("lamp", (0, 1), True)], []),
        (RegionKind.COMMON_OBJECT, [], []),
        (RegionKind.COMMON_PART, [CHAIR], [LEG, Phrase("seat", (0, 1), False)]),
        (RegionKind.COMMON_PART, [CHAIR], []),
        (
            RegionKind.UNIQUE_PART,
            [Phrase("chair", (0,), True), Phrase("stool", (1,), True)],
            [BACK, Phrase("cushion", (0,), False), Phrase("armrest", (0,), False)],
        ),
    ],
)
def test_every_written_answer_parses_back(
    kind: RegionKind, objects: list[Phrase], parts: list[Phrase], seed: int
) -> None:
    text = prompts.write_answer(kind, objects, parts, random.Random(seed))
    parsed = prompts.parse_answer(kind, text)
    assert list(parsed.phrases) == [*objects, *parts]
    assert parsed.malformed == 0
    ends = [f + len(p.images) for f, p in zip(parsed.first_segments, parsed.phrases, strict=True)]
    assert list(parsed.first_segments) == [0, *ends][: len(parsed.phrases)]


def test_a_seg_without_image_goes_to_the_first() -> None:
    parsed = prompts.parse_answer(RegionKind.COMMON_OBJECT, "<p> the mug </p> [SEG] is here.")
    assert parsed.phrases == (Phrase("mug", (0,), True),)


def test_tags_outside_a_phrase_count_as_malformed_and_keep_the_numbering() -> None:
    text = "[SEG] (IMAGE1) <p> the mug </p> [SEG] (IMAGE2) </p> [SEG]"
    parsed = prompts.parse_answer(RegionKind.COMMON_OBJECT, text)
    assert parsed.phrases == (Phrase("mug", (1,), True),)
    assert parsed.first_segments == (1,)
    assert parsed.malformed == 2


@pytest.mark.parametrize("count", range(1, 9))
def test_the_prompt_names_every_image_once_in_order(count: int) -> None:
    text = prompts.conversation("Which?", count)
    assert text.count(prompts.IMAGE_TOKEN) == count
    places = [text.index(f"(IMAGE{k + 1})") for k in range(count)]
    assert places == sorted(places)
    assert text.endswith("Which? ASSISTANT:")


def test_two_images_use_the_papers_wording() -> None:
    start = f"{prompts.IMAGE_START}{prompts.IMAGE_TOKEN}{prompts.IMAGE_END}"
    assert prompts.conversation("Q", 2) == (
        f"USER: The {start} (IMAGE1) and {start} (IMAGE2) provide an overview of the pictures.\n"
        "Q ASSISTANT:"
    )


def test_labels_lose_their_article_and_case() -> None:
    assert prompts.clean_label("  The  Seat   Back ") == "seat back"
    assert prompts.clean_label("anchor") == "anchor"


def test_the_marks_of_empty_answers_occur_in_no_other_answer() -> None:
    marks = set(prompts.empty_marks())
    for kind in RegionKind:
        empty = prompts.write_answer(
            kind, [CHAIR] if kind is not RegionKind.COMMON_OBJECT else [], []
        )
        assert marks & set(empty.replace(".", " ").split())
        for seed in range(20):
            full = prompts.write_answer(kind, [CHAIR], [LEG], random.Random(seed))
            assert not marks & set(full.replace(".", " ").split())


def test_a_full_stop_in_a_name_ends_no_sentence() -> None:
    text = (
        "The images show <p> the st. bernard </p> [SEG] (IMAGE1) and <p> the dog </p> [SEG] "
        "(IMAGE2). Shared parts: <p> the leg </p> [SEG] (IMAGE1) [SEG] (IMAGE2). </s>"
    )
    parsed = prompts.parse_answer(RegionKind.COMMON_PART, text)
    assert [(phrase.label, phrase.is_object) for phrase in parsed.phrases] == [
        ("st. bernard", True),
        ("dog", True),
        ("leg", False),
    ]
