"""What CALICO adds: the correspondence extraction module and the context-aware modules.

Legend: M images, T_g global tokens of width D_g, T_s semantic tokens of width D_s, Q queries of
width D_q, D the LLM's width. Paper sections 3.3 (CEM, equations 4-6) and 3.4 (CAM, 7-9).
Both start as the identity: the last layer of each is zero, so an untrained CALICO equals the
Q-Former base model bit for bit.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from calico_model.config import CalicoConfig


class CorrespondenceExtraction(nn.Module):
    """Lets the global tokens of an image read its own semantic tokens (equation 6).

    Parts that look alike have similar DINO features, so they correspond across images. The paper
    does not describe the inside of the module: norms and projection follow the configuration.
    """

    def __init__(self, config: CalicoConfig) -> None:
        super().__init__()
        width, semantic_width = config.eva.width, config.dino.width
        self.residual = config.ablation.cem_residual
        self.query_norm = nn.LayerNorm(width) if config.cem_norms else nn.Identity()
        self.semantic_norm = nn.LayerNorm(semantic_width) if config.cem_norms else nn.Identity()
        self.projection: nn.Module = nn.Identity()
        if config.cem_projection:
            self.projection = nn.Linear(semantic_width, width)
            semantic_width = width
        self.attention = nn.MultiheadAttention(
            width, config.cem_heads, kdim=semantic_width, vdim=semantic_width, batch_first=True
        )
        self.reset()

    def reset(self) -> None:
        """Zeroes the output projection."""
        nn.init.zeros_(self.attention.out_proj.weight)
        nn.init.zeros_(self.attention.out_proj.bias)

    def forward(self, global_tokens: Tensor, semantic_tokens: Tensor) -> Tensor:
        """Maps (M, T_g, D_g) and (M, T_s, D_s) to X'_global, (M, T_g, D_g)."""
        semantic = self.projection(self.semantic_norm(semantic_tokens))
        attended, _ = self.attention(
            self.query_norm(global_tokens), semantic, semantic, need_weights=False
        )
        return global_tokens + attended if self.residual else cast(Tensor, attended)


class QueryTransformer(Protocol):
    """The frozen Q-Former as CAM uses it: (M, Q, D_q), (M, T, D_g) -> (M, Q, D_q)."""

    def __call__(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Runs the Q-Former."""
        ...


class ContextAwareModule(nn.Module):
    """Runs the Q-Former once more with the prompt in its queries; changes the images' LLM rows."""

    def __init__(self, width: int, query_width: int) -> None:
        super().__init__()
        self.adaptation = nn.Linear(width, query_width)
        self.reintegration = nn.Linear(query_width, width)
        self.reset()

    def reset(self) -> None:
        """Zeroes both maps; training starts at the second, which gets gradient first."""
        for part in (self.adaptation, self.reintegration):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)

    def forward(
        self,
        guidance: Tensor,
        queries: Tensor,
        tokens: Tensor | None,
        query_transformer: QueryTransformer,
        *,
        guided: bool,
    ) -> Tensor:
        """Returns what to add to the image rows.

        Args:
            guidance: (M, D) hidden state of the last prompt token of each image's conversation.
            queries: (Q, D_q) the shared learned queries q.
            tokens: (M, T_g, D_g) X'_global, or None to inject the adapted state alone.
            query_transformer: the frozen Q-Former.
            guided: False keeps q' = q.

        Returns:
            (M, Q, D) residual for the Q rows of each image (equation 9).
        """
        shift = self.adaptation(guidance)[:, None, :]  # (M, 1, D_q)
        if tokens is None:
            embedded = shift.expand(-1, queries.shape[0], -1)
        else:
            shifted = queries[None] + shift if guided else queries[None].expand(len(tokens), -1, -1)
            embedded = query_transformer(shifted, tokens)  # (M, Q, D_q), equation 8
        return cast(Tensor, self.reintegration(embedded))


def scatter_rows(hidden: Tensor, rows: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """Returns `hidden` with `values` added at blocks of positions; nothing else changes.

    Args:
        hidden: (B, T, D).
        rows: (M,) batch row of each image.
        columns: (M,) first position of each image's Q rows.
        values: (M, Q, D).
    """
    offsets = torch.arange(values.shape[1], device=hidden.device)
    index = (rows[:, None], columns[:, None] + offsets[None, :])  # (M, Q)
    return hidden.index_put(index, values.to(hidden.dtype), accumulate=True)
