"""EVA-CLIP as LAVIS writes it: names and the arithmetic behind them, for reference."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from calico_model.config import EncoderConfig


class Attention(nn.Module):
    """One stacked matrix, a bias for queries and one for values, none for keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        count, tokens, width = x.shape
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        stacked = functional.linear(x, self.qkv.weight, bias)
        stacked = stacked.reshape(count, tokens, 3, self.heads, width // self.heads)
        q, k, v = stacked.permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5
        seen = (scores.softmax(-1) @ v).transpose(1, 2).reshape(count, tokens, width)
        return self.proj(seen)


class Block(nn.Module):
    """Attention and a GELU layer, each normalised first and added."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attn = Attention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(config.width, config.mlp), "fc2": nn.Linear(config.mlp, config.width)}
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x))))


class VisualEncoder(nn.Module):
    """`visual_encoder` of a BLIP-2 model, without its final norm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        tokens = (config.image_size // config.patch_size) ** 2 + 1
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, config.width))
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size)}
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x


class Eva(nn.Module):
    """`visual_encoder` and `ln_vision`."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.visual_encoder = VisualEncoder(config)
        self.ln_vision = nn.LayerNorm(config.width, eps=1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.ln_vision(self.visual_encoder(pixels))
