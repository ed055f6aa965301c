"""Turns with texts become padded id tensors with image slots and [SEG] positions.

Legend: B turns, T positions, R image slots, K [SEG] tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from calico_model.modeling.language import Conversations
from calico_model.modeling.losses import IGNORED
from calico_model.tokenizer import Tokenizer


@dataclass(frozen=True)
class Turn:
    """One question about some images, and its answer when it is known.

    Attributes:
        prompt: conversation text with one `<image>` per image.
        answer: text ending with the end tag, or "" to generate.
        images: which features of the pool fill the slots, in order.
    """

    prompt: str
    answer: str
    images: tuple[int, ...]


@dataclass(frozen=True)
class TrainingTurns:
    """Teacher-forced turns.

    Attributes:
        conversations: right padded.
        labels: (B, T), -100 outside the answer.
        seg_row, seg_column: (K,) position *before* each [SEG], answer order per row.
    """

    conversations: Conversations
    labels: Tensor
    seg_row: Tensor
    seg_column: Tensor


def collate_prompts(turns: Sequence[Turn], tokenizer: Tokenizer, queries: int) -> Conversations:
    """Pads prompts on the left for generation; answers are ignored."""
    return _layout([_expand(t.prompt, tokenizer, queries) for t in turns], turns, tokenizer, "left")


def collate_turns(turns: Sequence[Turn], tokenizer: Tokenizer, queries: int) -> TrainingTurns:
    """Pads prompts with answers on the right and labels the answers."""
    return collate_answers(turns, [tokenizer.encode(t.answer) for t in turns], tokenizer, queries)


def collate_answers(
    turns: Sequence[Turn], answers: Sequence[Sequence[int]], tokenizer: Tokenizer, queries: int
) -> TrainingTurns:
    """Does what `collate_turns` does, with answers that are token ids already."""
    prompts = [_expand(t.prompt, tokenizer, queries) for t in turns]
    full = [[*p, *a] for p, a in zip(prompts, answers, strict=True)]
    layout = _layout(full, turns, tokenizer, "right")
    labels = torch.full(layout.input_ids.shape, IGNORED)
    guidance = torch.tensor([len(p) - 1 for p in prompts])
    for row, (prompt, ids) in enumerate(zip(prompts, full, strict=True)):
        labels[row, len(prompt) : len(ids)] = torch.tensor(ids[len(prompt) :])
    seg_row, seg = (labels == tokenizer.seg).nonzero(as_tuple=True)
    conversations = Conversations(
        layout.input_ids,
        layout.is_token,
        guidance,
        layout.image_row,
        layout.image_column,
        layout.image_feature,
    )
    return TrainingTurns(conversations, labels, seg_row, seg - 1)


def _expand(text: str, tokenizer: Tokenizer, queries: int) -> list[int]:
    ids: list[int] = [] if tokenizer.start is None else [tokenizer.start]
    for token in tokenizer.encode(text):
        ids.extend([token] * (queries if token == tokenizer.image else 1))
    return ids


def _layout(
    sequences: Sequence[list[int]],
    turns: Sequence[Turn],
    tokenizer: Tokenizer,
    side: Literal["left", "right"],
) -> Conversations:
    longest = max(len(s) for s in sequences)
    input_ids = torch.full((len(sequences), longest), tokenizer.end)
    is_token = torch.zeros(input_ids.shape, dtype=torch.bool)
    slots: list[tuple[int, int, int]] = []
    for row, (ids, turn) in enumerate(zip(sequences, turns, strict=True)):
        start = longest - len(ids) if side == "left" else 0
        input_ids[row, start : start + len(ids)] = torch.tensor(ids)
        is_token[row, start : start + len(ids)] = True
        firsts = [
            i for i, t in enumerate(ids) if t == tokenizer.image and ids[i - 1] != tokenizer.image
        ]
        slots.extend(
            (row, start + first, feature)
            for first, feature in zip(firsts, turn.images, strict=True)
        )
    rows, columns, features = (torch.tensor(v) for v in zip(*slots, strict=True))
    guidance = torch.full((len(sequences),), longest - 1)
    return Conversations(input_ids, is_token, guidance, rows, columns, features)
