"""Mask memory: the next mask of an image depends on the masks it has so far (after Plum).

SAM's mask encoder, conditioned: each remembered mask is encoded together with its own prompt
(FiLM), then each cell attends over the masks at its position. The result is added to the dense
prompt. The last layer starts at zero, so an untrained memory changes nothing, bit for bit.
Legend: n masks to decode, h remembered masks for each, C prompt width, G embedding grid, L = 4G
logit side.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from calico_model.config import CalicoConfig
from calico_model.modeling.backbones import LayerNorm2d

SPOT_RADIUS = 2
"""Radius of a sought part's spot, in logit cells."""
_WIDTHS = (4, 16)  # SAM's mask encoder


class MaskSource(IntEnum):
    """Where a remembered mask comes from; an index of an embedding."""

    PREDICTED = 0
    APPROVED = 1
    SOUGHT = 2
    """No region yet: a spot that marks which of several alike parts to segment."""


@dataclass(frozen=True)
class History:
    """Remembered masks of each of n prompts; the order of a prompt's masks has no effect.

    Attributes:
        logits: (n, h, L, L) float, in [-10, 10]; an annotator's mask is -10 or 10.
        queries: (n, h, C) sparse prompt of each mask, zeros where it had none.
        source: (n, h) int64 of `MaskSource`.
        is_there: (n, h) bool, False at padding.
    """

    logits: Tensor
    queries: Tensor
    source: Tensor
    is_there: Tensor


class MaskMemory(nn.Module):
    """Encodes a history as an addition to the dense prompt."""

    def __init__(self, config: CalicoConfig) -> None:
        super().__init__()
        width = config.mask.prompt_width
        grid = config.mask.encoder.image_size // config.mask.encoder.patch_size
        first, second = _WIDTHS
        self.first = nn.Conv2d(1, first, 2, stride=2)
        self.first_norm = LayerNorm2d(first)
        self.first_film = nn.Linear(width, 2 * first)
        self.second = nn.Conv2d(first, second, 2, stride=2)
        self.second_norm = LayerNorm2d(second)
        self.second_film = nn.Linear(width, 2 * second)
        self.last = nn.Conv2d(second, width, 1)
        self.sources = nn.Embedding(len(MaskSource), width)
        self.positions = nn.Parameter(torch.randn(grid * grid, width) * width**-0.5)
        self.attention = nn.MultiheadAttention(width, config.mask.decoder_heads, batch_first=True)
        self.spread = nn.Conv2d(width, width, 3, padding=1)
        self.reset()

    def reset(self) -> None:
        """Zeroes FiLM and the last layer: the memory adds zeros."""
        for part in (self.first_film, self.second_film, self.spread):
            nn.init.zeros_(part.weight)
            assert part.bias is not None
            nn.init.zeros_(part.bias)

    def forward(self, history: History) -> Tensor:
        """Returns the addition to the dense prompt, (n, C, G, G); 0 where a history is empty."""
        n, h = history.is_there.shape
        encoded = self._encode(history)  # (n * h, C, G, G)
        width, grid = encoded.shape[1], encoded.shape[2]
        cells = encoded.view(n, h, width, grid * grid).permute(0, 3, 1, 2)  # (n, G G, h, C)
        cells = cells.reshape(n * grid * grid, h, width)
        queries = self.positions.repeat(n, 1)[:, None]  # (n G G, 1, C)
        is_empty = ~history.is_there.any(1)
        # A softmax over no masks is NaN: empty histories attend to padding and are zeroed below.
        hidden = ~(history.is_there | is_empty[:, None])
        hidden = hidden[:, None].expand(-1, grid * grid, -1).reshape(n * grid * grid, h)
        pooled, _ = self.attention(
            queries, cells, cells, key_padding_mask=hidden, need_weights=False
        )
        dense = pooled.view(n, grid, grid, width).permute(0, 3, 1, 2)
        added = self.spread(functional.gelu(dense))
        return cast(Tensor, added.masked_fill(is_empty[:, None, None, None], 0.0))

    def _encode(self, history: History) -> Tensor:
        sources = self.sources(history.source).flatten(0, 1)  # (n h, C)
        queries = history.queries.flatten(0, 1) + sources
        x = self.first(history.logits.flatten(0, 1)[:, None].float() / 10.0)
        x = functional.gelu(_film(self.first_norm(x), self.first_film(queries)))
        x = self.second(x)
        x = functional.gelu(_film(self.second_norm(x), self.second_film(queries)))
        return cast(Tensor, self.last(x) + sources[..., None, None])


def _film(x: Tensor, shift_scale: Tensor) -> Tensor:
    """x (1 + scale) + shift per channel (Plum): (m, c, H, W) and (m, 2 c)."""
    scale, shift = shift_scale[..., None, None].chunk(2, dim=1)
    return x * (1 + scale) + shift
