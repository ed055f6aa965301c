"""What a span head learns from: answers without tags, as a frozen CALICO reads them.

The encoders and the language model are frozen, so what they make of a question and its true answer
is computed once and kept in chunks on disk; a step costs the mask decoder alone. A part of the
questions of a group are about an image beside itself, as the questions of a prediction are.
Legend: M images, B answers, A tokens of the longest answer, n images of a conversation, Q rows per
image, D the LLM's width, S masks, L logit side.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from calico_model.data.collate import Turn, collate_turns
from calico_model.data.comparison import compare
from calico_model.data.scene import Scene
from calico_model.inference.images import to_pixels
from calico_model.inference.span_answers import (
    PlainAnswer,
    images_behind,
    plain_answer,
    pool_phrase,
    read_answers,
)
from calico_model.modeling.features import ImageFeatures, concatenate
from calico_model.modeling.losses import IGNORED
from calico_model.modeling.mask_decoder import MaskFeatures
from calico_model.modeling.model import Calico
from calico_model.modeling.span_head import Tag
from calico_model.tokenizer import Tokenizer
from calico_model.training.add_ons.chunk_folder import ChunkFolder
from calico_model.training.frozen import frozen_features, rounded
from calico_model.training.pretraining.batches import batch_scenes, mask_targets, write_turn
from calico_model.types import RegionKind

GROUPS_PER_CHUNK = 32
GROUP_SIZE = 2
_SELF_SHARE = 0.3  # of the groups are one image beside itself


@dataclass(frozen=True)
class SpanLessons:
    """One chunk of answers without tags.

    Attributes:
        features: (M, C, G, G) and finer maps of M images, for the mask decoder.
        states: (B, A, D) hidden states of the answers' tokens.
        tags: (B, A) int64 `Tag` of each token, -100 at padding.
        phrase: (S, D) mean state of the words of each mask's phrase.
        rows: (S, Q, D) states of the image rows of each mask's image, in the same conversation.
        anchor: (S, D) state before the [SEG] of the same mask, in the answer with tags.
        image: (S,) int64 which of the M images.
        target: (S, L, L) uint8, 255 times the share of each cell inside the mask.
    """

    features: MaskFeatures
    states: Tensor
    tags: Tensor
    phrase: Tensor
    rows: Tensor
    anchor: Tensor
    image: Tensor
    target: Tensor


class SpanLessonFolder(ChunkFolder[SpanLessons]):
    """Chunks of answers without tags."""

    kind = "spans "

    def _make(self, index: int) -> SpanLessons:
        rng = np.random.default_rng((self._seed, index))
        groups: list[list[Scene]] = []
        while len(groups) < GROUPS_PER_CHUNK:
            group = self._pool.draw_group(rng, GROUP_SIZE)
            groups.append([group[0]] * GROUP_SIZE if rng.random() < _SELF_SHARE else group)
        return make_lessons(
            self._model, self._tokenizer, groups, random.Random(int(rng.integers(2**31)))
        )

    def _pack(self, chunk: SpanLessons) -> dict[str, Tensor]:
        return _pack(chunk)

    def _unpack(self, tensors: Mapping[str, Tensor]) -> SpanLessons:
        return _unpack(tensors)


@torch.no_grad()
def make_lessons(
    model: Calico,
    tokenizer: Tokenizer,
    groups: Sequence[Sequence[Scene]],
    choose: random.Random,
) -> SpanLessons:
    """Asks every question about every group, and reads the true answers with and without tags.

    Args:
        model: frozen, in evaluation mode.
        tokenizer: of the model.
        groups: scenes of one size, the same number in each group.
        choose: picks wordings.
    """
    features = _encode(model, [scene for group in groups for scene in group])
    whole = rounded(features, torch.float32)
    batch = batch_scenes([scene for group in groups for scene in group])
    read = [
        _read_group(model, tokenizer, whole, group, first, choose)
        for first, group in zip(range(0, len(features), len(groups[0])), groups, strict=True)
    ]
    answers = [answer for group in read for answer in group]
    wanted = [mask for answer in answers for mask in answer.wanted]
    targets = mask_targets(batch, wanted, model.config.mask_side)
    longest = max(len(answer.tags) for answer in answers)
    states = torch.zeros(len(answers), longest, model.config.language.width)
    tags = torch.full((len(answers), longest), IGNORED)
    for row, answer in enumerate(answers):
        states[row, : len(answer.tags)] = answer.states
        tags[row, : len(answer.tags)] = torch.tensor(answer.tags)
    return SpanLessons(
        features.mask,
        states.bfloat16(),
        tags,
        torch.cat([answer.phrase for answer in answers]).bfloat16(),
        torch.cat([answer.rows for answer in answers]).bfloat16(),
        torch.cat([answer.anchor for answer in answers]).bfloat16(),
        targets.image,
        (targets.target * 255).round().to(torch.uint8),
    )


@dataclass(frozen=True, eq=False)
class _ReadAnswer:
    """One answer: (image, part, category) of its K masks, and the tensors of `SpanLessons`."""

    wanted: list[tuple[int, int, int]]
    states: Tensor
    tags: list[int]
    phrase: Tensor
    rows: Tensor
    anchor: Tensor


def tags_of(answer: PlainAnswer) -> list[int]:
    """Returns the `Tag` of each token of an answer."""
    tags = [int(Tag.OUTSIDE)] * len(answer.ids)
    for first, end in answer.spans:
        tags[first:end] = [int(Tag.BEGIN)] + [int(Tag.INSIDE)] * (end - first - 1)
    return tags


def _read_group(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    group: Sequence[Scene],
    first: int,
    choose: random.Random,
) -> list[_ReadAnswer]:
    comparison = compare(group)
    written = [
        write_turn(kind, comparison, first, choose, model.config.system_prompt)
        for kind in RegionKind
    ]
    turns = [turn for turn, _ in written]
    anchors = _seg_states(model, tokenizer, features, turns)
    plain = [plain_answer(tokenizer.encode(turn.answer), tokenizer) for turn in turns]
    read = read_answers(model, tokenizer, features, turns, [answer.ids for answer in plain])
    answers: list[_ReadAnswer] = []
    for (_, wanted), anchor, answer, states in zip(written, anchors, plain, read, strict=True):
        named = images_behind(answer.ids, answer.spans, tokenizer)
        pooled = [
            (pool_phrase(states.tokens, answer.ids, span, tokenizer), slot)
            for span, slots in zip(answer.spans, named, strict=True)
            for slot in slots
        ]
        if len(pooled) != len(wanted):
            raise AssertionError("every [SEG] of an answer has one phrase and one image")
        width = states.tokens.shape[1]
        answers.append(
            _ReadAnswer(
                wanted,
                states.tokens,
                tags_of(answer),
                torch.stack([p for p, _ in pooled])
                if pooled
                else states.tokens.new_zeros(0, width),
                states.rows[[slot for _, slot in pooled]],
                anchor,
            )
        )
    return answers


def _seg_states(
    model: Calico, tokenizer: Tokenizer, features: ImageFeatures, turns: Sequence[Turn]
) -> list[Tensor]:
    """(K, D) states before the [SEG]s of each answer, with its tags."""
    collated = collate_turns(turns, tokenizer, model.config.qformer.queries)
    hidden = model(features, collated.conversations)[0]
    return [hidden[row, collated.seg_column[collated.seg_row == row]] for row in range(len(turns))]


def _encode(model: Calico, scenes: Sequence[Scene]) -> ImageFeatures:
    """Features of each scene, without the photo trunk's; a repeated scene is encoded once."""
    different = {id(scene): scene for scene in scenes}
    encoded = {
        key: frozen_features(model, replace(to_pixels([scene.image], model.config), photo=()))
        for key, scene in different.items()
    }
    return concatenate([encoded[id(scene)] for scene in scenes])


def _pack(lessons: SpanLessons) -> dict[str, Tensor]:
    tensors = {f.name: getattr(lessons, f.name) for f in fields(lessons) if f.name != "features"}
    fine = {f"fine{k}": values for k, values in enumerate(lessons.features.fine)}
    named = tensors | fine | {"embedding": lessons.features.embedding}
    return {name: tensor.cpu().contiguous() for name, tensor in named.items()}


def _unpack(named: Mapping[str, Tensor]) -> SpanLessons:
    fine = tuple(named[name] for name in sorted(named) if name.startswith("fine"))
    kept = {f.name: named[f.name] for f in fields(SpanLessons) if f.name != "features"}
    return SpanLessons(MaskFeatures(named["embedding"], fine), **kept)
