"""The LLM's computation: which rows are computed for which positions, layers, greedy decoding.

Training pads on the right and computes every position. Generation packs: positions of several
conversations that begin alike, token by token and image by image, become one node, and padding has
no node. The first nodes of a group's three questions are the system prompt, the images and the
wording up to where the questions differ.

Legend: B conversations, T positions, R image slots, Q queries, N nodes, B' x T' computed rows
(B x T when padded, 1 x N when packed), D width, H heads, S cached positions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM


@dataclass(frozen=True)
class Conversations:
    """B tokenised conversations over a pool of M images.

    Attributes:
        input_ids: (B, T) int64; each image is Q image tokens.
        is_token: (B, T) bool, False at padding.
        guidance: (B,) position of the last prompt token.
        image_row, image_column: (R,) conversation and first position of each slot.
        image_feature: (R,) which of the M images fills the slot.
    """

    input_ids: Tensor
    is_token: Tensor
    guidance: Tensor
    image_row: Tensor
    image_column: Tensor
    image_feature: Tensor

    def to(self, device: str | torch.device) -> Conversations:
        """Moves all tensors to a device."""
        return Conversations(
            self.input_ids.to(device),
            self.is_token.to(device),
            self.guidance.to(device),
            self.image_row.to(device),
            self.image_column.to(device),
            self.image_feature.to(device),
        )


@dataclass(frozen=True)
class RowLayout:
    """Map between computed rows and positions of conversations; a row serves many positions.

    Attributes:
        source: (B', T') int64, one position that each row serves, as flat index into B x T.
        node: (B, T) int64, the row that serves each position, as flat index into B' x T'; 0 at the
            padding of packed conversations.
        depth: (B', T') int64, number of positions before the row in its conversation.
        mask: (1, 1, N, N) bool, True where a node (third axis) attends to another (fourth); None
            where every position is its own row, which is causal.
    """

    source: Tensor
    node: Tensor
    depth: Tensor
    mask: Tensor | None = None

    def rows(self, positions: Tensor) -> Tensor:
        """Selects the computed rows: (B, T, D) -> (B', T', D)."""
        return positions if self.mask is None else positions.flatten(0, 1)[self.source]

    def positions(self, rows: Tensor) -> Tensor:
        """Copies the computed rows to their positions: (B', T', D) -> (B, T, D)."""
        return rows if self.mask is None else rows.flatten(0, 1)[self.node]

    def to(self, device: str | torch.device) -> RowLayout:
        """Moves all tensors to a device."""
        mask = None if self.mask is None else self.mask.to(device)
        return RowLayout(self.source.to(device), self.node.to(device), self.depth.to(device), mask)


def padded(conversations: Conversations) -> RowLayout:
    """Makes every position its own row; causal, so padding must be on the right."""
    is_token = conversations.is_token
    # A token would attend to padding before it. On the meta device there are no values to check.
    assert is_token.is_meta or bool(is_token[:, 0].all()), "expected padding on the right"
    positions = torch.arange(is_token.numel(), device=is_token.device).view(is_token.shape)
    return RowLayout(positions, positions, (is_token.cumsum(1) - 1).clamp(min=0))


def packed(conversations: Conversations, *, own_images: bool) -> RowLayout:
    """Makes positions with equal beginnings one node; padding has no node.

    Args:
        conversations: padded on any side.
        own_images: whether each conversation has its own rows from its first image on. True from
            the first CAM on, where image rows depend on the question.
    """
    ids, is_token = conversations.input_ids.tolist(), conversations.is_token.tolist()
    rows, columns, images = (
        tensor.tolist()
        for tensor in (
            conversations.image_row,
            conversations.image_column,
            conversations.image_feature,
        )
    )
    slots = {
        (row, column): (image, row if own_images else None)
        for row, column, image in zip(rows, columns, images, strict=True)
    }
    width = len(ids[0])
    known: dict[tuple[object, ...], int] = {}
    source: list[int] = []
    chains: list[list[int]] = []
    for row in range(len(ids)):
        chain: list[int] = []
        for column in range(width):
            if not is_token[row][column]:
                continue
            beginning = chain[-1] if chain else None
            node = known.setdefault(
                (beginning, ids[row][column], slots.get((row, column))), len(source)
            )
            if node == len(source):
                source.append(row * width + column)
            chain.append(node)
        chains.append(chain)
    return _from_chains(chains, source, conversations.is_token)


def _from_chains(chains: list[list[int]], source: list[int], is_token: Tensor) -> RowLayout:
    """Builds the tensors from each conversation's nodes in order."""
    device = is_token.device
    node = torch.zeros(is_token.shape, dtype=torch.int64)
    depth = torch.zeros(len(source), dtype=torch.int64)
    mask = torch.zeros(len(source), len(source), dtype=torch.bool)
    for row, nodes in enumerate(chains):
        chain = torch.tensor(nodes)
        node[row, is_token[row].cpu()] = chain
        depth[chain] = torch.arange(len(chain))
        mask[chain[:, None], chain] |= torch.ones(len(chain), len(chain), dtype=torch.bool).tril()
    return RowLayout(
        torch.tensor(source, device=device)[None],
        node.to(device),
        depth.to(device)[None],
        mask.to(device)[None, None],
    )


def run_layers(
    language: LlamaForCausalLM,
    layers: range,
    hidden: Tensor,
    depth: Tensor,
    mask: Tensor | None,
    cache: DynamicCache | None = None,
) -> Tensor:
    """Runs consecutive layers.

    Args:
        language: the LLM.
        layers: indices of the layers.
        hidden: (B', T', D).
        depth: (B', T') rotary positions.
        mask: bool, broadcastable to (B', H, T', S); None is causal.
        cache: if given, keys and values are read from it and appended to it.

    Returns:
        (B', T', D) hidden states before the last norm.
    """
    rotary = language.model.rotary_emb(hidden, position_ids=depth)
    for index in layers:
        hidden = language.model.layers[index](
            hidden,
            attention_mask=mask,
            position_ids=depth,
            past_key_values=cache,
            use_cache=cache is not None,
            position_embeddings=rotary,
        )
    return hidden


def unpack(cache: DynamicCache, layers: range, layout: RowLayout) -> None:
    """Expands keys and values of packed prompts from (1, H, N, D/H) to (B, H, T, D/H)."""
    for index in layers:
        layer = cache.layers[index]
        layer.keys = layer.keys[0][:, layout.node].transpose(0, 1)
        layer.values = layer.values[0][:, layout.node].transpose(0, 1)


def step(
    language: LlamaForCausalLM, token: Tensor, is_token: Tensor, cache: DynamicCache
) -> Tensor:
    """Feeds one token to every conversation.

    Args:
        language: the LLM.
        token: (B,) int64.
        is_token: (B, S) bool, of all positions including the new one.
        cache: of the S - 1 positions before; grows by one position.

    Returns:
        (B, D) final hidden states after the last norm.
    """
    hidden = language.model.embed_tokens(token)[:, None]
    depth = is_token.sum(1, keepdim=True) - 1
    every = range(len(language.model.layers))
    hidden = run_layers(language, every, hidden, depth, is_token[:, None, None], cache)
    return cast(Tensor, language.model.norm(hidden))[:, 0]


@dataclass(frozen=True)
class Generated:
    """Greedily decoded answers.

    Attributes:
        ids: token ids per conversation, without the end token.
        probabilities: probability of each of these tokens, per conversation.
        seg_states: (n, D) hidden states before each [SEG] in order, per conversation.
    """

    ids: list[list[int]]
    probabilities: list[list[float]]
    seg_states: list[Tensor]


def decode_greedily(
    language: LlamaForCausalLM,
    state: Tensor,
    is_token: Tensor,
    cache: DynamicCache,
    *,
    bias: Tensor,
    seg: int,
    end: int,
    limit: int,
) -> Generated:
    """Decodes answers token by token; a conversation that has ended leaves the batch.

    Args:
        language: the LLM.
        state: (B, D) final hidden state of each prompt's last token.
        is_token: (B, T) bool of the prompts.
        cache: keys and values of the prompts; grows and shrinks with the batch.
        bias: (V,) added to the logits.
        seg, end: ids of [SEG] and of the end of turn.
        limit: largest number of tokens of an answer.
    """
    running = list(range(len(state)))
    ids: list[list[int]] = [[] for _ in running]
    probabilities: list[list[float]] = [[] for _ in running]
    states: list[list[Tensor]] = [[] for _ in running]
    empty = state.new_zeros(0, state.shape[1])
    for _ in range(limit):
        best, token = (language.lm_head(state).float() + bias).softmax(-1).max(-1)
        kept: list[int] = []
        for place, (chosen, chance) in enumerate(zip(token.tolist(), best.tolist(), strict=True)):
            if chosen == end:
                continue
            kept.append(place)
            ids[running[place]].append(chosen)
            probabilities[running[place]].append(chance)
            if chosen == seg:
                states[running[place]].append(state[place])
        if not kept:
            break
        if len(kept) < len(running):
            rows = torch.tensor(kept, device=token.device)
            running = [running[place] for place in kept]
            token, is_token = token[rows], is_token[rows]
            cache.batch_select_indices(rows)
        is_token = torch.cat((is_token, is_token.new_ones(len(running), 1)), dim=1)
        state = step(language, token, is_token, cache)
    return Generated(ids, probabilities, [torch.stack(s) if s else empty for s in states])
