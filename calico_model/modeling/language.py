"""The LLM's layers, run in one place: teacher-forced, prompts packed, and token by token.

Legend: B conversations, B' x T' computed rows (layout.py), D width, H heads, S cached positions.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM

from calico_model.modeling.layout import RowLayout


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
        layers: which.
        hidden: (B', T', D).
        depth: (B', T') rotary positions.
        mask: bool, broadcastable to (B', H, T', S); None is causal.
        cache: keys and values are appended and read when given.

    Returns:
        (B', T', D) without the last norm.
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
    """Turns the (1, H, N, D/H) keys and values of packed prompts into (B, H, T, D/H) ones."""
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
        is_token: (B, S) bool, of all positions including this one.
        cache: of the S - 1 positions before; grows by one.

    Returns:
        (B, D) final hidden states after the last norm.
    """
    hidden = language.model.embed_tokens(token)[:, None]
    depth = is_token.sum(1, keepdim=True) - 1
    every = range(len(language.model.layers))
    hidden = run_layers(language, every, hidden, depth, is_token[:, None, None], cache)
    return cast(Tensor, language.model.norm(hidden))[:, 0]
