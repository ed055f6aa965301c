"""Questions about a group and what becomes of their answers: generated text and states to regions.

Works on features, so that whoever holds them, a service or a trainer, asks in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch

from calico_model import prompts
from calico_model.inference.dense_reading import LEAST_SHOWN, DenseReading, read_dense
from calico_model.inference.generation import Question, ask
from calico_model.inference.likelihood import Likelihood
from calico_model.inference.mask_refinement import picture_of, refine_masks
from calico_model.inference.pairwise import compare, questions_in_pairs
from calico_model.inference.segments import Segment, SizesHw, decode_segments, segments_of
from calico_model.inference.sharpening import without_fragments
from calico_model.inference.teacher_forcing import ReadAnswers, read_answers
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.types import AnswerPhrase, PartMask, RegionKind, RgbImage


@dataclass(frozen=True, eq=False)
class Answered:
    """What the model says about one group.

    Attributes:
        parts: regions in answer order, objects first.
        texts: the answer to every question, as it was generated or merged from pairs.
        phrases: of these answers, in the order of the questions and of their text.
    """

    parts: tuple[PartMask, ...]
    texts: dict[RegionKind, str]
    phrases: tuple[AnswerPhrase, ...]


@torch.inference_mode()
def answer(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    sizes_hw: SizesHw,
    *,
    images: Sequence[RgbImage] | None = None,
    wording: int = 0,
    asks: bool = True,
    is_familiar: bool = True,
) -> Answered:
    """Asks all three questions about a group, at once or in pairs as its configuration says.

    Args:
        model: in evaluation mode, on the device of the features.
        tokenizer: of the model, and of the adapter it wears.
        features: of the group's images.
        sizes_hw: (height, width) in pixels of each image.
        images: their pixels, (H_i, W_i, 3) uint8, for a model that sharpens its masks on them;
            None leaves the masks as they are.
        wording: which of the known wordings to use.
        asks: whether the language model is asked at all. Of pictures unlike those it learned from
            it says what is wrong, and says it with confidence.
        is_familiar: whether the pictures are like those the weights learned from: of others the
            refiner does not know the edges, so masks are sharpened without it.

    Returns:
        Regions in the original pixel frame of their image; empty masks are left out.
    """
    count = len(sizes_hw)
    reading = read_dense(model, features, sizes_hw, None if is_familiar else images)
    if not asks:
        questions: tuple[Question, ...] = ()
    elif model.config.asks_in_pairs:
        questions = questions_in_pairs(count)
    else:
        questions = tuple(Question(kind, tuple(range(count))) for kind in RegionKind)
    said = ask(model, tokenizer, features, questions, wording=wording) if questions else ()
    if model.config.asks_in_pairs or reading.seen or not asks:
        merged = compare(said, count, reading)
        segments, texts, phrases = merged.segments, merged.texts, merged.phrases
    else:
        segments = _settle([segment for one in said for segment in one.segments])
        texts = {one.question.kind: one.text for one in said}
        phrases = tuple(phrase for one in said for phrase in one.phrases)
    if not is_familiar:
        segments = _outlined(model, features, _likely(segments, reading), images)
    parts = decode_segments(model, features, sizes_hw, segments, images)
    return Answered(tuple(part for part in parts if part.mask.any()), texts, phrases)


@torch.inference_mode()
def draw(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    sizes_hw: SizesHw,
    answers: Mapping[RegionKind, str],
    *,
    images: Sequence[RgbImage] | None = None,
) -> tuple[PartMask, ...]:
    """Draws the masks of given answers, as if the model had said them (teacher forcing).

    Args:
        model, tokenizer, features, sizes_hw, images: as in `answer`.
        answers: per question, text in the grammar of prompts.py.

    Returns:
        Regions in answer order; unlike in `answer`, empty masks are kept.
    """
    told = list(answers.items())
    read = _read(model, tokenizer, features, told)
    segments: list[Segment] = []
    for (kind, text), states in zip(told, read.seg_states, strict=True):
        parsed = prompts.parse_answer(kind, text)
        segments += segments_of(kind, parsed, states, [1.0] * len(states), len(sizes_hw))
    return decode_segments(model, features, sizes_hw, segments, images)


@torch.inference_mode()
def draw_each(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    sizes_hw: SizesHw,
    answers: Sequence[tuple[RegionKind, str]],
    *,
    images: Sequence[RgbImage] | None = None,
) -> list[tuple[PartMask, ...]]:
    """Draws the masks of given answers, and says how likely the model finds what it was told.

    Args:
        model, tokenizer, features, sizes_hw, images: as in `answer`.
        answers: any number of them, text in the grammar of prompts.py after the question it
            answers.

    Returns:
        Per answer its regions in order, empty masks included; the phrase's part of their evidence
        is the geometric mean of the probabilities of the name's tokens.
    """
    read = _read(model, tokenizer, features, answers)
    found: list[list[Segment]] = []
    for (kind, text), states, likelihood in zip(
        answers, read.seg_states, read.likelihoods, strict=True
    ):
        chances = [math.exp(mean) for mean in name_likelihoods(tokenizer, text, likelihood)]
        parsed = prompts.parse_answer(kind, text)
        found.append(segments_of(kind, parsed, states, chances, len(sizes_hw)))
    every = [one for each in found for one in each]
    parts = iter(decode_segments(model, features, sizes_hw, every, images))
    return [tuple(islice(parts, len(each))) for each in found]


def name_likelihoods(tokenizer: Tokenizer, text: str, likelihood: Likelihood) -> list[float]:
    """Mean log-likelihood of the tokens of each [SEG]'s name, its closing tag included.

    Args:
        tokenizer: the answer was read with.
        text: the answer.
        likelihood: of that answer.
    """
    found: list[float] = []
    inside: list[float] = []
    mean = 0.0
    for token, chance in zip(tokenizer.encode(text), likelihood.answer, strict=True):
        if token == tokenizer.phrase_start:
            inside = []
        elif token == tokenizer.seg:
            found.append(mean)
        else:
            inside.append(chance)
        if token == tokenizer.phrase_end:
            name = inside[1:]  # without the article
            mean = math.fsum(name) / max(1, len(name))
    return found


def _read(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    answers: Sequence[tuple[RegionKind, str]],
) -> ReadAnswers:
    questions = [prompts.QUESTIONS[kind][0] for kind, _ in answers]
    return read_answers(model, tokenizer, features, questions, [text for _, text in answers])


def _likely(segments: Sequence[Segment], reading: DenseReading) -> list[Segment]:
    """Keeps what saves an annotator work on pictures the weights know nothing of."""
    right = {(one.image, one.is_object, one.label): one.right for one in reading.seen}
    found = []
    for one in segments:
        chance = right.get((one.image, one.kind is RegionKind.COMMON_OBJECT, one.label), 0.0)
        if chance >= LEAST_SHOWN:
            found.append(replace(one, chance=chance))
    return found


def _outlined(
    model: Calico,
    features: ImageFeatures,
    segments: Sequence[Segment],
    images: Sequence[RgbImage] | None,
) -> list[Segment]:
    """Looks closer at the parts of photographs; whole objects are seen best as they are."""
    refiner = model.photo_refiner
    if refiner is None or images is None:
        return list(segments)
    masks = {
        place: (one.image, one.mask)
        for place, one in enumerate(segments)
        if one.kind is not RegionKind.COMMON_OBJECT and one.mask is not None
    }
    pictures = {k: picture_of(model, features, k, images[k]) for k, _ in masks.values()}
    drawn = refine_masks(
        refiner,
        [pictures[image] for image, _ in masks.values()],
        [mask for _, mask in masks.values()],
        [None] * len(masks),
    )
    found = list(segments)
    for place, mask in zip(masks, drawn, strict=True):
        if mask.any():
            found[place] = replace(found[place], mask=without_fragments(mask))
    return found


def _settle(segments: Sequence[Segment]) -> list[Segment]:
    """Keeps one region per name and image, and one kind per part name: the surer one.

    A part is common or unique in the whole group, so that a common part never loses single images.
    """
    objects = [s for s in segments if s.kind is RegionKind.COMMON_OBJECT]
    parts = [s for s in segments if s.kind is not RegionKind.COMMON_OBJECT]
    surest: dict[str, Segment] = {}
    for segment in parts:
        if segment.label not in surest or segment.certainty > surest[segment.label].certainty:
            surest[segment.label] = segment
    agreed = [s for s in parts if s.kind is surest[s.label].kind]
    first: dict[tuple[RegionKind, str, int], Segment] = {}
    for segment in (*objects, *agreed):
        first.setdefault((segment.kind, segment.label, segment.image), segment)
    return list(first.values())
