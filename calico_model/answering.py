"""Questions about a group and what becomes of their answers: generated text and states to regions.

Works on features, so that whoever holds them, a service or a trainer, asks in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from calico_model import prompts
from calico_model.data.collate import Turn, collate_prompts
from calico_model.features import ImageFeatures
from calico_model.forced import ReadAnswers, read_answers
from calico_model.images import to_mask
from calico_model.likelihood import Likelihood
from calico_model.modeling.generation import Generated
from calico_model.modeling.model import Calico
from calico_model.prompts import ParsedAnswer
from calico_model.tokenizer import Tokenizer
from calico_model.types import Evidence, PartMask, RegionKind

SizesHw = Sequence[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Answered:
    """What the model says about one group.

    Attributes:
        parts: regions in answer order, objects first.
        texts: the raw answer to every question.
    """

    parts: tuple[PartMask, ...]
    texts: dict[RegionKind, str]


@dataclass(frozen=True)
class _Segment:
    """One [SEG] that becomes a region.

    Attributes:
        kind, label, image: of the region.
        object_label: the compared object of that image, or None.
        state: (D,) hidden state before the [SEG].
        certainty: mean probability of the phrase's tokens.
    """

    kind: RegionKind
    label: str
    image: int
    object_label: str | None
    state: Tensor
    certainty: float


@torch.inference_mode()
def answer(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    sizes_hw: SizesHw,
    *,
    wording: int = 0,
) -> Answered:
    """Asks all three questions about a group.

    Args:
        model: in evaluation mode, on the device of the features.
        tokenizer: of the model, and of the adapter it wears.
        features: of the group's images.
        sizes_hw: (height, width) in pixels of each image.
        wording: which of the known wordings to use.

    Returns:
        Regions in the original pixel frame of their image; empty masks are left out.
    """
    kinds = tuple(RegionKind)
    questions = [prompts.QUESTIONS[kind][wording] for kind in kinds]
    answers = _ask(model, tokenizer, features, questions)
    texts = {kind: tokenizer.decode(ids) for kind, ids in zip(kinds, answers.ids, strict=True)}
    segments: list[_Segment] = []
    for row, (kind, text) in enumerate(texts.items()):
        parsed = prompts.parse_answer(kind, text)
        chances = _certainties(answers, row, tokenizer)
        segments += _segments(kind, parsed, answers.seg_states[row], chances, len(sizes_hw))
    parts = _decode(model, features, sizes_hw, _settle(segments))
    return Answered(tuple(part for part in parts if part.mask.any()), texts)


@torch.inference_mode()
def draw(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    sizes_hw: SizesHw,
    answers: Mapping[RegionKind, str],
) -> tuple[PartMask, ...]:
    """Draws the masks of given answers, as if the model had said them (teacher forcing).

    Args:
        model, tokenizer, features, sizes_hw: as in `answer`.
        answers: per question, text in the grammar of prompts.py.

    Returns:
        Regions in answer order; unlike in `answer`, empty masks are kept.
    """
    told = list(answers.items())
    read = _read(model, tokenizer, features, told)
    segments: list[_Segment] = []
    for (kind, text), states in zip(told, read.seg_states, strict=True):
        parsed = prompts.parse_answer(kind, text)
        segments += _segments(kind, parsed, states, [1.0] * len(states), len(sizes_hw))
    return _decode(model, features, sizes_hw, segments)


@torch.inference_mode()
def draw_each(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    sizes_hw: SizesHw,
    answers: Sequence[tuple[RegionKind, str]],
) -> list[tuple[PartMask, ...]]:
    """Draws the masks of given answers, and says how likely the model finds what it was told.

    Args:
        model, tokenizer, features, sizes_hw: as in `answer`.
        answers: any number of them, text in the grammar of prompts.py after the question it
            answers.

    Returns:
        Per answer its regions in order, empty masks included; the phrase's part of their evidence
        is the geometric mean of the probabilities of the name's tokens.
    """
    read = _read(model, tokenizer, features, answers)
    found: list[list[_Segment]] = []
    for (kind, text), states, likelihood in zip(
        answers, read.seg_states, read.likelihoods, strict=True
    ):
        chances = [math.exp(mean) for mean in name_likelihoods(tokenizer, text, likelihood)]
        parsed = prompts.parse_answer(kind, text)
        found.append(_segments(kind, parsed, states, chances, len(sizes_hw)))
    parts = iter(_decode(model, features, sizes_hw, [one for each in found for one in each]))
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


def _ask(
    model: Calico, tokenizer: Tokenizer, features: ImageFeatures, questions: Sequence[str]
) -> Generated:
    config = model.config
    images = tuple(range(len(features)))
    turns = [
        Turn(prompts.conversation(q, len(images), config.system_prompt), "", images)
        for q in questions
    ]
    layout = collate_prompts(turns, tokenizer, config.qformer.queries)
    return model.generate(
        features,
        layout.to(features.global_tokens.device),
        seg=tokenizer.seg,
        end=tokenizer.end,
        held_back=[i for word in prompts.empty_marks() for i in tokenizer.encode(word)],
    )


def _decode(
    model: Calico, features: ImageFeatures, sizes_hw: SizesHw, segments: Sequence[_Segment]
) -> tuple[PartMask, ...]:
    if not segments:
        return ()
    states = torch.stack([segment.state for segment in segments])
    images = torch.tensor([segment.image for segment in segments], device=states.device)
    logits, iou = model.segment(features, states, images)
    parts: list[PartMask] = []
    for segment, mask_logits, quality in zip(segments, logits, iou, strict=True):
        is_shared = segment.kind is not RegionKind.UNIQUE_PART
        iou_hat = float(quality.clamp(0.0, 1.0))
        parts.append(
            PartMask(
                image_index=segment.image,
                kind=segment.kind,
                label=segment.label,
                mask=to_mask(mask_logits, sizes_hw[segment.image], model.config.image_size),
                object_label=segment.object_label,
                part_id=f"{segment.kind.value}:{segment.label}" if is_shared else None,
                score=iou_hat * segment.certainty,
                evidence=Evidence(iou_hat, _mask_score(mask_logits), segment.certainty),
            )
        )
    return tuple(parts)


def _mask_score(logits: Tensor) -> float:
    """Mean foreground probability inside a mask of (L, L) logits, 0 if it is empty (PixelLM)."""
    inside = logits[logits > 0]
    return float(inside.sigmoid().mean()) if inside.numel() else 0.0


def _certainties(answers: Generated, row: int, tokenizer: Tokenizer) -> list[float]:
    """Mean token probability of each `<p> ... </p>` of an answer, by its first [SEG]."""
    certainty = 1.0
    inside: list[float] = []
    found: list[float] = []
    for token, chance in zip(answers.ids[row], answers.probabilities[row], strict=True):
        if token == tokenizer.phrase_start:
            inside = []
        elif token == tokenizer.phrase_end:
            certainty = sum(inside) / len(inside) if inside else 1.0
        elif token == tokenizer.seg:
            found.append(certainty)
        else:
            inside.append(chance)
    return found


def _segments(
    kind: RegionKind,
    parsed: ParsedAnswer,
    states: Tensor,
    certainties: Sequence[float],
    images: int,
) -> list[_Segment]:
    """The [SEG] tokens of one answer that are regions: objects of the first, parts of the rest."""
    object_of = {k: p.label for p in parsed.phrases if p.is_object for k in p.images}
    wants_objects = kind is RegionKind.COMMON_OBJECT
    found: list[_Segment] = []
    if parsed.segments != len(states):
        return found  # a tag spelled letter by letter: nothing says which mask is whose
    for phrase, first in zip(parsed.phrases, parsed.first_segments, strict=True):
        if phrase.is_object != wants_objects or not phrase.label:
            continue
        for offset, image in enumerate(phrase.images):
            if 0 <= image < images:
                owner = None if wants_objects else object_of.get(image)
                at = first + offset
                found.append(
                    _Segment(kind, phrase.label, image, owner, states[at], certainties[at])
                )
    return found


def _settle(segments: Sequence[_Segment]) -> list[_Segment]:
    """Keeps one region per name and image, and one kind per part name: the surer one.

    A part is common or unique in the whole group, so that a common part never loses single images.
    """
    objects = [s for s in segments if s.kind is RegionKind.COMMON_OBJECT]
    parts = [s for s in segments if s.kind is not RegionKind.COMMON_OBJECT]
    surest: dict[str, _Segment] = {}
    for segment in parts:
        if segment.label not in surest or segment.certainty > surest[segment.label].certainty:
            surest[segment.label] = segment
    agreed = [s for s in parts if s.kind is surest[s.label].kind]
    first: dict[tuple[RegionKind, str, int], _Segment] = {}
    for segment in (*objects, *agreed):
        first.setdefault((segment.kind, segment.label, segment.image), segment)
    return list(first.values())
