"""Questions, conversation layout, and the answer grammar with its writer and parser.

Grammar of a grounded phrase (paper 3.2): `<p> the leg </p> [SEG] (IMAGE1) [SEG] (IMAGE2)`, each
[SEG] followed by the image it belongs to. Part answers have two sentences, the objects and the
parts; the object answer has one. An empty answer has no phrase at all.
Knows text and random choice. Does not know token ids or tensors.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from calico_model.types import AnswerPhrase, RegionKind

IMAGE_TOKEN = "<image>"
IMAGE_START = "<im_start>"
IMAGE_END = "<im_end>"
PHRASE_START = "<p>"
PHRASE_END = "</p>"
SEG = "[SEG]"
END = "</s>"

QUESTIONS: dict[RegionKind, tuple[str, ...]] = {
    RegionKind.COMMON_OBJECT: (
        "Please segment the common object in these images.",
        "Segment whatever object the pictures share.",
        "Which object is shared by all images?",
        "Can you mark the object common to these photos?",
    ),
    RegionKind.COMMON_PART: (
        "Please segment the common parts of the objects in these images.",
        "Which parts do the objects have in common?",
        "Segment the parts shared by the objects.",
        "Can you mark the parts common to the objects in these photos?",
    ),
    RegionKind.UNIQUE_PART: (
        "Please segment the unique parts of the objects in these images.",
        "Which parts belong to only one of the objects?",
        "Segment the parts found on one object alone.",
        "Can you mark the parts unique to each object in these photos?",
    ),
}

_OBJECT_ANSWERS = ("The images share {}.", "All pictures contain {}.", "The common object is {}.")
_IDENTIFICATIONS = ("The images show {}.", "The pictures contain {}.")
_PART_ANSWERS: dict[RegionKind, tuple[str, ...]] = {
    RegionKind.COMMON_PART: ("Shared parts: {}.", "The common parts are {}."),
    RegionKind.UNIQUE_PART: ("Parts found on one side only: {}.", "The unique parts are {}."),
}
_EMPTY_ANSWERS: dict[RegionKind, str] = {
    RegionKind.COMMON_OBJECT: "The images share no object.",
    RegionKind.COMMON_PART: "The objects share no part.",
    RegionKind.UNIQUE_PART: "No part is unique.",
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words of annotators' requests beside the names of things; their plurals count, too.
REQUEST_WORDS = _words(
    "please can could would will you i we want need to me us the a an any segment find show mark "
    "outline select highlight mask draw detect locate give get look for where is are there"
)
PLACE_WORDS = _words(
    "in on of across here there everywhere all both every each these those this that image "
    "picture photo group too"
)
ASKING_WORDS = _words(
    "what which how whatever name called label tell do does have has they them between belong "
    "found one their own by with it its"
)
POINTING_WORDS = _words("this that it here box region area")
NAMING_WORDS = _words("what which name called label tell")
OBJECT_WORDS = _words("object item thing category")
PART_WORDS = _words("part component piece")
SHARED_WORDS = _words("common shared share same alike similar")
UNIQUE_WORDS = _words(
    "different difference differ unique distinct distinguish distinguishing differing only alone"
)
FIXED_WORDS = (
    (REQUEST_WORDS | PLACE_WORDS | ASKING_WORDS | POINTING_WORDS)
    | (OBJECT_WORDS | PART_WORDS)
    | (SHARED_WORDS | UNIQUE_WORDS)
)
REQUEST_EXAMPLES = '"segment the handles", "what is different?" or "what is this?"'

_PHRASE = re.compile(r"<p>(.*?)</p>((?:\s*\[SEG\](?:\s*\(IMAGE\d+\))?)+)", re.DOTALL)
_NAME = re.compile(r"<p>.*?</p>", re.DOTALL)
_SEGMENT = re.compile(r"\[SEG\](?:\s*\(IMAGE(\d+)\))?")
_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)


@dataclass(frozen=True)
class Phrase:
    """One named thing and the images that show it.

    Attributes:
        label: name of the thing, lower case, without article.
        images: 0-based image indices in [SEG] order.
        is_object: True for an object the answer is about, False for a part of it.
    """

    label: str
    images: tuple[int, ...]
    is_object: bool


@dataclass(frozen=True)
class ParsedAnswer:
    """A parsed answer.

    Attributes:
        phrases: in the order of the text.
        first_segments: per phrase, the 0-based index of its first [SEG] in the whole answer.
        malformed: number of [SEG] that do not fit the grammar.
        segments: number of [SEG] in the text.
        starts: per phrase, the 0-based character of the text at which it begins.
    """

    phrases: tuple[Phrase, ...]
    first_segments: tuple[int, ...]
    malformed: int
    segments: int
    starts: tuple[int, ...]


def conversation(question: str, images: int, system_prompt: str = "") -> str:
    """Returns the prompt up to and including `ASSISTANT:`; `<image>` stands for one image.

    Args:
        question: the user's words.
        images: number of images of the group, at least 1.
        system_prompt: first words; may be empty.
    """
    slots = [f"{IMAGE_START}{IMAGE_TOKEN}{IMAGE_END} (IMAGE{k + 1})" for k in range(images)]
    if images == 1:
        preamble = f"The {slots[0]} provides an overview of the picture."
    else:
        listed = f"{slots[0]} and {slots[1]}" if images == 2 else _listed(slots)
        preamble = f"The {listed} provide an overview of the pictures."
    start = f"{system_prompt} " if system_prompt else ""
    return f"{start}USER: {preamble}\n{question} ASSISTANT:"


def write_answer(
    kind: RegionKind,
    objects: Sequence[Phrase],
    parts: Sequence[Phrase],
    choose: random.Random | None = None,
) -> str:
    """Writes the answer to one question.

    Args:
        kind: the question that is answered.
        objects: common objects, or the compared objects of a part question.
        parts: parts in answer order; empty for the object question.
        choose: chooses the wordings; None takes the first of each.

    Returns:
        Text that ends with the end-of-turn tag.
    """
    if kind is RegionKind.COMMON_OBJECT:
        if not objects:
            return f"{_EMPTY_ANSWERS[kind]} {END}"
        return f"{_pick(_OBJECT_ANSWERS, choose).format(_phrases(objects))} {END}"
    shown = _pick(_IDENTIFICATIONS, choose).format(_phrases(objects))
    if not parts:
        return f"{shown} {_EMPTY_ANSWERS[kind]} {END}"
    return f"{shown} {_pick(_PART_ANSWERS[kind], choose).format(_phrases(parts))} {END}"


def locate_phrases(
    kind: RegionKind, text: str, phrases: Sequence[Phrase]
) -> tuple[AnswerPhrase, ...]:
    """Returns where phrases begin in the text that `write_answer` made of them.

    Args:
        kind: the question that is answered.
        text: the whole answer.
        phrases: all of its phrases, in the order of the text.
    """
    located: list[AnswerPhrase] = []
    end = 0
    for phrase in phrases:
        written = _phrase(phrase)
        start = text.index(written, end)
        located.append(AnswerPhrase(kind, phrase.label, phrase.images, phrase.is_object, start))
        end = start + len(written)
    return tuple(located)


def parse_answer(kind: RegionKind, text: str) -> ParsedAnswer:
    """Parses an answer in the grammar of `write_answer`, with tolerance for errors.

    A [SEG] without an image belongs to image 1; [SEG] outside a complete phrase count as malformed.
    The phrases in the first sentence of a part answer are objects.
    """
    first_sentence = first_sentence_end(text)
    phrases: list[Phrase] = []
    first_segments: list[int] = []
    starts: list[int] = []
    used = 0
    for match in _PHRASE.finditer(text):
        label = clean_label(match.group(1))
        images = tuple(int(k or 1) - 1 for k in _SEGMENT.findall(match.group(2)))
        used += len(images)
        first_segments.append(text.count(SEG, 0, match.start(2)))
        starts.append(match.start())
        is_object = kind is RegionKind.COMMON_OBJECT or match.start() < first_sentence
        phrases.append(Phrase(label, images, is_object))
    segments = text.count(SEG)
    return ParsedAnswer(
        tuple(phrases), tuple(first_segments), segments - used, segments, tuple(starts)
    )


def first_sentence_end(text: str) -> int:
    """Returns the position of the first full stop outside names ("st. bernard"), -1 for none."""
    return _NAME.sub(lambda name: " " * len(name.group()), text).find(".")


def clean_label(text: str) -> str:
    """Returns a name in lower case, with single spaces, without its leading article."""
    return _ARTICLE.sub("", " ".join(text.split())).lower()


def _phrases(phrases: Sequence[Phrase]) -> str:
    return _listed([_phrase(phrase) for phrase in phrases])


def _phrase(phrase: Phrase) -> str:
    segments = " ".join(f"{SEG} (IMAGE{k + 1})" for k in phrase.images)
    return f"{PHRASE_START} the {phrase.label} {PHRASE_END} {segments}"


def _listed(items: Sequence[str]) -> str:
    if len(items) == 1:
        return items[0]
    if len(items) == 2:
        return f"{items[0]} and {items[1]}"
    return ", ".join(items[:-1]) + f", and {items[-1]}"


def _pick(options: Sequence[str], choose: random.Random | None) -> str:
    return choose.choice(options) if choose else options[0]


def empty_marks() -> tuple[str, ...]:
    """Returns the words of empty answers alone; generation holds them back to prefer masks."""
    others = " ".join((*_OBJECT_ANSWERS, *_IDENTIFICATIONS, *sum(_PART_ANSWERS.values(), ())))
    taken = set(re.findall(r"[A-Za-z]+", others)) | {"part"}
    empty = re.findall(r"[A-Za-z]+", " ".join(_EMPTY_ANSWERS.values()))
    return tuple(sorted(set(empty) - taken))


def known_words() -> tuple[str, ...]:
    """Returns every word of the fixed wordings, to build a small tokenizer."""
    texts = [conversation(q, 3) + " " + conversation(q, 1) for qs in QUESTIONS.values() for q in qs]
    texts += [t.format(" ") for t in (*_OBJECT_ANSWERS, *_IDENTIFICATIONS)]
    texts += [t.format(" ") for ts in _PART_ANSWERS.values() for t in ts]
    texts += [*_EMPTY_ANSWERS.values(), "the a an and"]
    words = re.findall(r"[A-Za-z]+:?|[.,?]", re.sub(r"<[^>]*>|\(IMAGE\d\)", " ", " ".join(texts)))
    return tuple(sorted(set(words)))
