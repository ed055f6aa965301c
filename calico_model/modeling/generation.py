"""Greedy decoding of several answers at once. Knows token ids and states, not images.

Legend: B conversations, T prompt positions, D the LLM's width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM

from calico_model.modeling.language import step


@dataclass(frozen=True)
class Generated:
    """Greedy answers.

    Attributes:
        ids: per conversation, without the end token.
        probabilities: per conversation, of each chosen token.
        seg_states: per conversation, (n, D) hidden state before each [SEG], in order.
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
    """Writes answers token by token; a conversation that has ended leaves the batch.

    Args:
        language: the LLM.
        state: (B, D) final hidden state of each prompt's last token.
        is_token: (B, T) bool of the prompts.
        cache: keys and values of the prompts; used up.
        bias: (V,) added to the logits.
        seg, end: ids of [SEG] and of the end of turn.
        limit: most tokens of an answer.
    """
    running = list(range(len(state)))
    ids: list[list[int]] = [[] for _ in running]
    probabilities: list[list[float]] = [[] for _ in running]
    states: list[list[Tensor]] = [[] for _ in running]
    empty = state.new_zeros(0, state.shape[1])
    for _ in range(limit):
        best, token = (language.lm_head(state).float() + bias).softmax(-1).max(-1)
        going: list[int] = []
        for place, (chosen, chance) in enumerate(zip(token.tolist(), best.tolist(), strict=True)):
            if chosen == end:
                continue
            going.append(place)
            ids[running[place]].append(chosen)
            probabilities[running[place]].append(chance)
            if chosen == seg:
                states[running[place]].append(state[place])
        if not going:
            break
        if len(going) < len(running):
            kept = torch.tensor(going, device=token.device)
            running = [running[place] for place in going]
            token, is_token = token[kept], is_token[kept]
            cache.batch_select_indices(kept)
        is_token = torch.cat((is_token, is_token.new_ones(len(running), 1)), dim=1)
        state = step(language, token, is_token, cache)
    return Generated(ids, probabilities, [torch.stack(s) if s else empty for s in states])
