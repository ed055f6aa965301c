"""Span tagging: masks for the words of an answer, instead of a token [SEG] behind them (Plum).

A tagger marks the tokens of an answer that begin a phrase (B), continue one (I), or belong to none
(O). It reads the language model's states in both directions: whether a word begins a phrase may
depend on the next one. The query of a phrase is the mean of the *causal* states of its tokens,
moved by what the phrase finds in the rows of one image, and goes where the state before a [SEG]
goes: `Calico.segment`. The query starts as that mean.

Legend: B answers, A tokens of an answer, D the LLM's width, S phrases on an image each, Q rows per
image.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from calico_model.config import CalicoConfig

_HEADS = 4
_WIDEST = 512
"""A 7B model's states are reduced to this width first: 8 million parameters instead of 100."""
_DROPOUT = 0.1
TAG_WEIGHTS = (0.1, 1.0, 1.0)
"""Weights of O, B and I in the loss of the tagger: most tokens belong to no phrase."""


class Tag(IntEnum):
    """What a token is to a phrase."""

    OUTSIDE = 0
    BEGIN = 1
    INSIDE = 2


class SpanHead(nn.Module):
    """Tags the tokens of answers, and turns phrases into queries for the mask decoder."""

    def __init__(self, config: CalicoConfig) -> None:
        super().__init__()
        width = config.language.width
        narrow = _HEADS * max(1, min(_WIDEST, width // 2) // _HEADS)
        self.reduce = nn.Linear(width, narrow)
        self.context = nn.TransformerEncoderLayer(
            narrow, _HEADS, 2 * narrow, dropout=_DROPOUT, batch_first=True
        )
        self.tags = nn.Linear(narrow, len(Tag))
        wide = _HEADS * max(1, min(_WIDEST, width) // _HEADS)
        self.phrase_norm = nn.LayerNorm(width)
        self.row_norm = nn.LayerNorm(width)
        self.ask = nn.Linear(width, wide)
        self.look = nn.MultiheadAttention(wide, _HEADS, kdim=width, vdim=width, batch_first=True)
        self.move = nn.Sequential(
            nn.Linear(2 * wide, 2 * wide), nn.GELU(), nn.Linear(2 * wide, width)
        )
        self.reset()

    def reset(self) -> None:
        """Zeroes the last layer of the query: a query is the mean of its phrase's states."""
        last = cast(nn.Linear, self.move[-1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def tag(self, states: Tensor, is_token: Tensor) -> Tensor:
        """Scores the tags of every token.

        Args:
            states: (B, A, D) hidden states of the answers' tokens.
            is_token: (B, A) bool, False at padding.

        Returns:
            (B, A, 3) logits in the order of `Tag`; meaningless at padding.
        """
        seen = self.context(self.reduce(states), src_key_padding_mask=~is_token)
        return cast(Tensor, self.tags(seen))

    def query(self, phrases: Tensor, rows: Tensor) -> Tensor:
        """Makes the query of each phrase on its image.

        Args:
            phrases: (S, D) mean of the causal states of each phrase's tokens.
            rows: (S, Q, D) hidden states of the image's rows in the same conversation.

        Returns:
            (S, D), in the space of the states before a [SEG].
        """
        asked = self.ask(self.phrase_norm(phrases))
        rows = self.row_norm(rows)
        found, _ = self.look(asked[:, None], rows, rows, need_weights=False)
        return phrases + cast(Tensor, self.move(torch.cat((asked, found[:, 0]), 1)))


def read_spans(tags: Sequence[int]) -> list[tuple[int, int]]:
    """Returns the phrases that tags mark, as (first token, end) with the end left out.

    B begins a phrase and ends the one before. I continues a phrase only; without one it is O.
    """
    spans: list[tuple[int, int]] = []
    is_open = False
    for place, tag in enumerate(tags):
        if tag == Tag.BEGIN:
            spans.append((place, place + 1))
        elif tag == Tag.INSIDE and is_open:
            spans[-1] = (spans[-1][0], place + 1)
        is_open = tag == Tag.BEGIN or (tag == Tag.INSIDE and is_open)
    return spans


def tag_loss(logits: Tensor, tags: Tensor) -> Tensor:
    """Cross-entropy of tags, O weighing less; answers without any phrase do not count.

    Args:
        logits: (B, A, 3).
        tags: (B, A) int64, -100 at padding.

    Returns:
        A scalar; 0 where no answer has a phrase.
    """
    has_phrase = (tags > Tag.OUTSIDE).any(1)
    if not bool(has_phrase.any()):
        return logits.sum() * 0.0
    weights = torch.tensor(TAG_WEIGHTS, device=logits.device)
    return functional.cross_entropy(
        logits[has_phrase].flatten(0, 1).float(), tags[has_phrase].flatten(), weight=weights
    )


def anchor_loss(queries: Tensor, anchors: Tensor) -> Tensor:
    """KL divergence of unit Gaussians around queries and around their anchors, per feature.

    Args:
        queries: (S, D).
        anchors: (S, D), of the frozen model.

    Returns:
        A scalar: the mean of (query - anchor)^2 / 2.
    """
    return (queries.float() - anchors.float()).square().mean() / 2
