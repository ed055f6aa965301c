"""TinyViT (Wu et al., ECCV 2022) as the image encoder of MobileSAM (Zhang et al., 2023).

Convolutions at stride 4, then windows of attention with a depthwise convolution between attention
and MLP; batch norm is folded into the convolutions. Any input size works: windows are padded.
Legend: N images, H x W input in pixels, h x w cells of a map.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from calico_model.modeling.backbones import LayerNorm2d

STRIDE = 16
"""Pixels of the input per cell of the embedding."""
EMBEDDING = 256
"""Channels of the embedding."""
_WIDTHS, _DEPTHS, _HEADS, _WINDOWS = (64, 128, 160, 320), (2, 2, 6, 2), (2, 4, 5, 10), (7, 7, 14, 7)
_HEAD_WIDTH, _EXPANSION = 32, 4
_BATCH_NORM_EPS = 1e-5


class FoldedConv(nn.Conv2d):
    """A convolution with bias that keeps the size, or halves it, with batch norm folded in."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, groups=groups)


class ConvBlock(nn.Module):
    """Inverted bottleneck with a shortcut, GELU after every convolution and after the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = _EXPANSION * width
        self.conv1 = FoldedConv(width, inner)
        self.conv2 = FoldedConv(inner, inner, 3, groups=inner)
        self.conv3 = FoldedConv(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, width, h, w) to the same shape."""
        y = functional.gelu(self.conv2(functional.gelu(self.conv1(x))))
        return functional.gelu(x + self.conv3(y))


class Downsample(nn.Module):
    """From one stage to the next: new channels, and half the side except before the last stage."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = FoldedConv(inputs, outputs)
        self.conv2 = FoldedConv(outputs, outputs, 3, stride, outputs)
        self.conv3 = FoldedConv(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, inputs, h, w) to (N, outputs, h / stride, w / stride)."""
        y = functional.gelu(self.conv2(functional.gelu(self.conv1(x))))
        return cast(Tensor, self.conv3(y))


class WindowAttention(nn.Module):
    """Attention inside windows, with a learned bias per distance and head."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window**2))
        steps = torch.arange(window)
        apart = (steps[:, None] - steps).abs()
        # Index of the bias of two cells: rows apart x window + columns apart.
        index = apart[:, None, :, None] * window + apart[None, :, None, :]
        self.register_buffer("index", index.reshape(window**2, window**2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, window^2, width) to the same shape."""
        batch, cells, width = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, cells, self.heads, 3 * _HEAD_WIDTH)
        query, key, value = qkv.transpose(1, 2).split(_HEAD_WIDTH, dim=-1)
        bias = self.attention_biases[:, cast(Tensor, self.index)]
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return cast(Tensor, self.proj(attended.transpose(1, 2).reshape(batch, cells, width)))


class Mlp(nn.Module):
    """Two layers with layer norm before them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, _EXPANSION * width)
        self.fc2 = nn.Linear(_EXPANSION * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., width) to the same shape."""
        return cast(Tensor, self.fc2(functional.gelu(self.fc1(self.norm(x)))))


class AttentionBlock(nn.Module):
    """Windowed attention, a depthwise convolution, an MLP."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.attn = WindowAttention(width, heads, window)
        self.local_conv = FoldedConv(width, width, 3, groups=width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, width, h, w) to the same shape."""
        count, width, height, breadth = x.shape
        size = self.attn.window
        cells = functional.pad(x, (0, -breadth % size, 0, -height % size))
        rows, columns = cells.shape[2] // size, cells.shape[3] // size
        # (N, width, rows, size, columns, size) -> (N x rows x columns, size^2, width)
        windows = cells.view(count, width, rows, size, columns, size).permute(0, 2, 4, 3, 5, 1)
        attended = self.attn(windows.reshape(-1, size * size, width))
        attended = attended.view(count, rows, columns, size, size, width)
        attended = attended.permute(0, 5, 1, 3, 2, 4).reshape(count, width, *cells.shape[2:])
        x = self.local_conv(x + attended[:, :, :height, :breadth])
        flat = x.permute(0, 2, 3, 1)
        mixed: Tensor = flat + self.mlp(flat)
        return mixed.permute(0, 3, 1, 2)


class TinyVit(nn.Module):
    """TinyViT-5M with the neck of SAM's image encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.ModuleList(
            (FoldedConv(3, _WIDTHS[0] // 2, 3, 2), FoldedConv(_WIDTHS[0] // 2, _WIDTHS[0], 3, 2))
        )
        self.stages = nn.ModuleList()
        self.downsamples = nn.ModuleList()
        for stage, width in enumerate(_WIDTHS):
            blocks = (
                ConvBlock(width)
                if stage == 0
                else AttentionBlock(width, _HEADS[stage], _WINDOWS[stage])
                for _ in range(_DEPTHS[stage])
            )
            self.stages.append(nn.Sequential(*blocks))
            if stage < len(_WIDTHS) - 1:
                stride = 1 if stage == len(_WIDTHS) - 2 else 2
                self.downsamples.append(Downsample(width, _WIDTHS[stage + 1], stride))
        self.neck = nn.Sequential(
            nn.Conv2d(_WIDTHS[-1], EMBEDDING, 1, bias=False),
            LayerNorm2d(EMBEDDING),
            nn.Conv2d(EMBEDDING, EMBEDDING, 3, padding=1, bias=False),
            LayerNorm2d(EMBEDDING),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps (N, 3, H, W) normalised pixels to (N, 256, H / 16, W / 16)."""
        x = self.stem[1](functional.gelu(self.stem[0](pixels)))
        for stage, blocks in enumerate(self.stages):
            x = blocks(x)
            if stage < len(self.downsamples):
                x = self.downsamples[stage](x)
        return cast(Tensor, self.neck(x))


def tiny_vit_tensors(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the tensors of a published encoder and folds batch norms into convolutions.

    Args:
        published: names as in the encoder of MobileSAM's file.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in published.items():
        module, _, last = name.rpartition(".")
        if module in ("norm_head", "head") or module.endswith(".bn"):
            continue  # of the classifier; folded below
        if not module.endswith(".c"):
            tensors[_own_name(name)] = tensor
            continue
        norm = module.removesuffix(".c") + ".bn."
        scale = published[norm + "weight"] / torch.sqrt(
            published[norm + "running_var"] + _BATCH_NORM_EPS
        )
        own = _own_name(module.removesuffix(".c"))
        tensors[f"{own}.{last}"] = tensor * scale[:, None, None, None]
        tensors[f"{own}.bias"] = published[norm + "bias"] - published[norm + "running_mean"] * scale
    return tensors


def _own_name(name: str) -> str:
    for theirs, ours in (("patch_embed.seq.0", "stem.0"), ("patch_embed.seq.2", "stem.1")):
        name = name.replace(theirs, ours)
    if name.startswith("layers."):
        _, stage, part, rest = name.split(".", 3)
        return f"stages.{stage}.{rest}" if part == "blocks" else f"downsamples.{stage}.{rest}"
    return name
