"""Given answers instead of generated ones: their masks, their likelihood, the prompts of names.

The model reads a whole conversation, answer included, as in training (teacher forcing).
Legend: B answers, T positions, V words, D the LLM's width, n images, P names, C prompt width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from calico_model import prompts
from calico_model.data.collate import Turn, collate_turns
from calico_model.inference.segments import Segment, SizesHw, decode_segments, segments_of
from calico_model.inference.span_answers import plain_answer, tag_answers
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.losses import IGNORED
from calico_model.modeling.model import Calico
from calico_model.prompts import Phrase
from calico_model.tokenizer import Tokenizer
from calico_model.types import Likelihood, PartMask, RegionKind, RgbImage

UNKNOWN_OBJECT = "object"
"""Name of an object that neither the model nor the annotator names."""


@dataclass(frozen=True)
class ForcedAnswers:
    """Hidden states and likelihoods of answers that were given to the model.

    Attributes:
        seg_states: per answer, (n, D) hidden state before each [SEG], in order.
        likelihoods: per answer.
    """

    seg_states: list[Tensor]
    likelihoods: list[Likelihood]


def force_answers(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    questions: Sequence[str],
    answers: Sequence[str],
) -> ForcedAnswers:
    """Runs the model over whole conversations, as in training.

    Args:
        model: on the device of the features.
        tokenizer: of the model with its active adapter.
        features: of the images that all conversations are about.
        questions: B questions.
        answers: B answers in the grammar of prompts.py.
    """
    images = tuple(range(len(features)))
    config = model.config
    turns = [
        Turn(prompts.conversation(question, len(images), config.system_prompt), answer, images)
        for question, answer in zip(questions, answers, strict=True)
    ]
    collated = collate_turns(turns, tokenizer, config.qformer.queries)
    conversations = collated.conversations.to(features.global_tokens.device)
    hidden, logits = model(features, conversations)  # (B, T, D), (B, T, V)
    chances = logits[:, :-1].float().log_softmax(-1)
    targets = conversations.input_ids[:, 1:, None]
    chances = chances.gather(-1, targets).squeeze(-1).cpu()  # (B, T - 1) of each next token
    is_answer = collated.labels[:, 1:] != IGNORED
    ids, is_token = conversations.input_ids[:, 1:].cpu(), conversations.is_token[:, 1:].cpu()
    is_word = is_token & (ids != tokenizer.image) & ~is_answer
    return ForcedAnswers(
        seg_states=[
            hidden[row, collated.seg_column[collated.seg_row == row].to(hidden.device)]
            for row in range(len(turns))
        ],
        likelihoods=[
            Likelihood(tuple(row[of_question].tolist()), tuple(row[of_answer].tolist()))
            for row, of_question, of_answer in zip(chances, is_word, is_answer, strict=True)
        ],
    )


@torch.inference_mode()
def draw_answers(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    sizes_hw: SizesHw,
    answers: Mapping[RegionKind, str],
    *,
    images: Sequence[RgbImage] | None = None,
) -> tuple[PartMask, ...]:
    """Draws the masks of given answers, as if the model had generated them.

    Args:
        model: in evaluation mode, on the device of the features.
        tokenizer: of the model with its active adapter.
        features: of the group's images.
        sizes_hw: (height, width) in pixels of each image.
        answers: per question, text in the grammar of prompts.py.
        images: pixels of the group's images, (H_i, W_i, 3) uint8, on which a model with a refiner
            sharpens its masks; None leaves the masks as they are.

    Returns:
        Regions in answer order; regions of empty masks stay.
    """
    texts = list(answers.items())
    if model.config.query_source == "span":
        segments = _tagged(model, tokenizer, features, texts)
        return decode_segments(model, features, sizes_hw, segments, images)
    forced = _force(model, tokenizer, features, texts)
    segments = []
    for (kind, text), states in zip(texts, forced.seg_states, strict=True):
        parsed = prompts.parse_answer(kind, text)
        segments += segments_of(kind, parsed, states, [1.0] * len(states), len(sizes_hw))
    return decode_segments(model, features, sizes_hw, segments, images)


@torch.inference_mode()
def draw_scored_answers(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    sizes_hw: SizesHw,
    answers: Sequence[tuple[RegionKind, str]],
    *,
    images: Sequence[RgbImage] | None = None,
) -> list[tuple[PartMask, ...]]:
    """Draws the masks of given answers; their evidence tells how likely the model finds the names.

    Args:
        model, tokenizer, features, sizes_hw, images: as in `draw_answers`.
        answers: any number of (question, text in the grammar of prompts.py).

    Returns:
        Per answer its regions in order; regions of empty masks stay. `MaskEvidence.phrase` is the
        geometric mean of the probabilities of the name's tokens.
    """
    forced = _force(model, tokenizer, features, answers)
    by_answer: list[list[Segment]] = []
    for (kind, text), states, likelihood in zip(
        answers, forced.seg_states, forced.likelihoods, strict=True
    ):
        chances = [math.exp(mean) for mean in name_likelihoods(tokenizer, text, likelihood)]
        parsed = prompts.parse_answer(kind, text)
        by_answer.append(segments_of(kind, parsed, states, chances, len(sizes_hw)))
    segments = [segment for answer in by_answer for segment in answer]
    parts = iter(decode_segments(model, features, sizes_hw, segments, images))
    return [tuple(islice(parts, len(answer))) for answer in by_answer]


def name_likelihoods(tokenizer: Tokenizer, text: str, likelihood: Likelihood) -> list[float]:
    """Returns per [SEG] the mean log-likelihood of its name's tokens, closing tag included.

    Args:
        tokenizer: that encoded the answer.
        text: the answer.
        likelihood: of that answer.
    """
    means: list[float] = []
    inside: list[float] = []
    mean = 0.0
    for token, chance in zip(tokenizer.encode(text), likelihood.answer, strict=True):
        if token == tokenizer.phrase_start:
            inside = []
        elif token == tokenizer.seg:
            means.append(mean)
        else:
            inside.append(chance)
        if token == tokenizer.phrase_end:
            name = inside[1:]  # without the article
            mean = math.fsum(name) / max(1, len(name))
    return means


@torch.inference_mode()
def make_name_prompts(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    labels: Sequence[str],
    objects: Sequence[str | None] = (),
) -> Tensor:
    """Returns the [SEG] prompts of named parts, from the answer that all images share these parts.

    Args:
        model: on the device of the features.
        tokenizer: of the model with its active adapter.
        features: of a group's images.
        labels: names of parts, at least one.
        objects: name of the compared object of each image, None where unknown; () for all unknown.

    Returns:
        (P, n, C) sparse prompts, one per name and image.
    """
    images = tuple(range(len(features)))
    owners = [name or UNKNOWN_OBJECT for name in objects] or [UNKNOWN_OBJECT] * len(features)
    shown = [
        Phrase(name, tuple(k for k in images if owners[k] == name), is_object=True)
        for name in dict.fromkeys(owners)
    ]
    kind = RegionKind.COMMON_PART
    parts = [Phrase(name, images, is_object=False) for name in labels]
    answer = prompts.write_answer(kind, shown, parts)
    (states,) = _force(model, tokenizer, features, [(kind, answer)]).seg_states
    projected: Tensor = model.segmentation_projection(states[len(owners) :]).float()  # (P n, C)
    return projected.reshape(len(labels), len(images), -1)


def _tagged(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    answers: Sequence[tuple[RegionKind, str]],
) -> list[Segment]:
    """Regions of given answers whose tags are taken out and found again by the span head."""
    images = tuple(range(len(features)))
    turns = [
        Turn(
            prompts.conversation(
                prompts.QUESTIONS[kind][0], len(images), model.config.system_prompt
            ),
            text,
            images,
        )
        for kind, text in answers
    ]
    plain = [plain_answer(tokenizer.encode(text), tokenizer) for _, text in answers]
    kinds = [kind for kind, _ in answers]
    tagged = tag_answers(model, tokenizer, features, kinds, turns, plain)
    return [segment for answer in tagged for segment in answer.segments]


def _force(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    answers: Sequence[tuple[RegionKind, str]],
) -> ForcedAnswers:
    """`force_answers` after the first wording of each answer's question."""
    questions = [prompts.QUESTIONS[kind][0] for kind, _ in answers]
    return force_answers(model, tokenizer, features, questions, [text for _, text in answers])
