"""The three questions about a group: answers that the model generates, and their regions.

Works on features, so that a service and a trainer generate answers in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from calico_model import prompts
from calico_model.data.collate import Turn, collate_prompts
from calico_model.inference.dense_answers import answers_of_detections
from calico_model.inference.dense_detection import detect_regions
from calico_model.inference.pairwise import (
    GeneratedAnswer,
    GroupQuestion,
    merge_pairwise_answers,
    questions_in_pairs,
)
from calico_model.inference.photo_masks import refine_photo_masks
from calico_model.inference.segments import (
    Segment,
    SizesHw,
    certainties,
    decode_segments,
    segments_of,
)
from calico_model.inference.span_answers import plain_answers, tag_answers
from calico_model.modeling.features import ImageFeatures, concatenate
from calico_model.modeling.language import Generated
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.types import AnswerPhrase, PartMask, RegionKind, RgbImage


@dataclass(frozen=True, eq=False)
class RegionPrediction:
    """The regions of one group, and the answers that name them.

    Attributes:
        parts: regions in answer order, objects first.
        texts: the answer to every question, as it was generated or merged from pairs.
        phrases: of these answers, in the order of the questions and of their text.
    """

    parts: tuple[PartMask, ...]
    texts: dict[RegionKind, str]
    phrases: tuple[AnswerPhrase, ...]


@torch.inference_mode()
def predict_regions(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    sizes_hw: SizesHw,
    *,
    images: Sequence[RgbImage] | None = None,
    wording: int = 0,
    asks_language: bool = True,
    is_familiar: bool = True,
    answers: Sequence[GeneratedAnswer] | None = None,
) -> RegionPrediction:
    """Asks all three questions about a group, at once or in pairs as the configuration says.

    Args:
        model: in evaluation mode, on the device of the features.
        tokenizer: of the model with its active adapter.
        features: of the group's images.
        sizes_hw: (height, width) in pixels of each image.
        images: pixels of the group's images, (H_i, W_i, 3) uint8, on which a model with a refiner
            sharpens its masks; None leaves the masks as they are.
        wording: which of the known wordings of a question to use, 0-based.
        asks_language: whether the language model is asked. It answers wrongly, and with
            confidence, about pictures unlike those it learned from.
        is_familiar: whether the pictures are like those that the weights learned from. The refiner
            does not know the edges of other pictures: their masks are sharpened without it.
        answers: of `generate_together`; None asks the language model now.

    Returns:
        Regions in the original pixel frame of their image, without those of an empty mask.
    """
    count = len(sizes_hw)
    is_alone = not asks_language and not is_familiar
    pixels = None if is_familiar else images
    dense = detect_regions(model, features, sizes_hw, pixels, is_alone=is_alone)
    if answers is None or not asks_language:
        questions = _questions(model, count) if asks_language else ()
        answers = generate_answers(model, tokenizer, features, questions, wording=wording)
    if is_alone:
        merged = answers_of_detections(dense, count)
        segments, texts, phrases = merged.segments, merged.texts, merged.phrases
    elif model.config.asks_in_pairs or dense.detections or not asks_language:
        merged = merge_pairwise_answers(answers, count, dense)
        segments, texts, phrases = merged.segments, merged.texts, merged.phrases
    else:
        segments = _without_repetition(
            [segment for answer in answers for segment in answer.segments]
        )
        texts = {answer.question.kind: answer.text for answer in answers}
        phrases = tuple(phrase for answer in answers for phrase in answer.phrases)
    if not is_familiar:
        segments = refine_photo_masks(model, features, segments, images)
    parts = decode_segments(model, features, sizes_hw, segments, images)
    return RegionPrediction(tuple(part for part in parts if part.mask.any()), texts, phrases)


def generate_answers(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    questions: Sequence[GroupQuestion],
    *,
    wording: int = 0,
) -> list[GeneratedAnswer]:
    """Generates the answers to some questions, all in one batch of conversations.

    Args:
        model: in evaluation mode, on the device of the features.
        tokenizer: of the model with its active adapter.
        features: of the group's images.
        questions: none ask nothing.
        wording: which of the known wordings of a question to use, 0-based.

    Returns:
        One answer per question, in order.
    """
    if not questions:
        return []
    config = model.config
    turns = [
        Turn(
            prompts.conversation(
                prompts.QUESTIONS[question.kind][wording],
                len(question.images),
                config.system_prompt,
            ),
            "",
            question.images,
        )
        for question in questions
    ]
    layout = collate_prompts(turns, tokenizer, config.qformer.queries)
    generated = model.generate(
        features,
        layout.to(features.global_tokens.device),
        seg=tokenizer.seg,
        end=tokenizer.end,
        penalised=[i for word in prompts.empty_marks() for i in tokenizer.encode(word)],
    )
    if config.query_source == "span":
        return _tagged(model, tokenizer, features, questions, turns, generated)
    answers: list[GeneratedAnswer] = []
    for row, question in enumerate(questions):
        text = tokenizer.decode(generated.ids[row])
        parsed = prompts.parse_answer(question.kind, text)
        segments = segments_of(
            question.kind,
            parsed,
            generated.seg_states[row],
            certainties(generated, row, tokenizer),
            len(question.images),
        )
        answers.append(GeneratedAnswer(question, text, parsed, _in_group(segments, question)))
    return answers


@torch.inference_mode()
def generate_together(
    model: Calico, tokenizer: Tokenizer, groups: Sequence[ImageFeatures]
) -> list[list[GeneratedAnswer]]:
    """Generates the answers about several groups, all in one batch of conversations.

    Reading the weights costs most of the time of a decoding step, and is done once for all groups.

    Args:
        model: in evaluation mode, on the device of the features.
        tokenizer: of the model with its active adapter.
        groups: features of each group.

    Returns:
        Per group the answers that `generate_answers` gives about it alone, but for rounding.
    """
    if not groups:
        return []
    asked, moved, first = [], [], 0
    for features in groups:
        questions = _questions(model, len(features.global_tokens))
        asked.append(questions)
        moved += [replace(q, images=tuple(first + k for k in q.images)) for q in questions]
        first += len(features.global_tokens)
    generated = iter(generate_answers(model, tokenizer, concatenate(groups), moved))
    found, first = [], 0
    for features, questions in zip(groups, asked, strict=True):
        found.append([_moved_back(next(generated), question, first) for question in questions])
        first += len(features.global_tokens)
    return found


def _moved_back(answer: GeneratedAnswer, question: GroupQuestion, first: int) -> GeneratedAnswer:
    """An answer about a group whose images began at `first`, with positions in the group."""
    segments = tuple(replace(one, image=one.image - first) for one in answer.segments)
    return replace(answer, question=question, segments=segments)


def _tagged(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    questions: Sequence[GroupQuestion],
    turns: Sequence[Turn],
    generated: Generated,
) -> list[GeneratedAnswer]:
    """The same answers without tags; the span head finds what they name."""
    kinds = [question.kind for question in questions]
    plain = plain_answers(generated, tokenizer)
    tagged = tag_answers(model, tokenizer, features, kinds, turns, plain)
    return [
        GeneratedAnswer(question, answer.text, answer.parsed, _in_group(answer.segments, question))
        for question, answer in zip(questions, tagged, strict=True)
    ]


def _in_group(segments: Sequence[Segment], question: GroupQuestion) -> tuple[Segment, ...]:
    """Regions of a conversation, with positions in the group."""
    return tuple(replace(segment, image=question.images[segment.image]) for segment in segments)


def _questions(model: Calico, images: int) -> tuple[GroupQuestion, ...]:
    if model.config.asks_in_pairs:
        return questions_in_pairs(images)
    return tuple(GroupQuestion(kind, tuple(range(images))) for kind in RegionKind)


def _without_repetition(segments: Sequence[Segment]) -> list[Segment]:
    """Keeps the first region per name and image, and per part name the kind of the surest answer.

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
