"""RepViT-M1, the backbone of EdgeTAM, so that EdgeTAM needs neither timm nor torchvision.

Wang et al., RepViT: Revisiting Mobile CNN From ViT Perspective, CVPR 2024. Tensor names are those
that timm's feature extractor writes, so the published weights are read as they are. Computed as
trained, without merging branches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

_WIDTHS = (48, 96, 192, 384)
_DEPTHS = (2, 2, 14, 2)
_SQUEEZE_STEP = 8  # widths of squeezed channels are multiples of it


def _conv_norm(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    layers = nn.Sequential()
    conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    layers.add_module("c", conv)
    layers.add_module("bn", nn.BatchNorm2d(outputs))
    return layers


class _Stem(nn.Module):
    """Image -> cells of four pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = _conv_norm(3, width // 2, 3, stride=2)
        self.act1 = nn.GELU()
        self.conv2 = _conv_norm(width // 2, width, 3, stride=2)

    def forward(self, pixels: Tensor) -> Tensor:
        return cast(Tensor, self.conv2(self.act1(self.conv1(pixels))))


class _TokenMixer(nn.Module):
    """Depthwise 3 x 3 and 1 x 1 convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _conv_norm(width, width, 3, groups=width)
        self.conv1 = _conv_norm(width, width, groups=width)

    def forward(self, cells: Tensor) -> Tensor:
        return cast(Tensor, self.conv(cells) + self.conv1(cells) + cells)


class _SqueezeExcite(nn.Module):
    """Scales every channel by what the mean of all channels says."""

    def __init__(self, width: int) -> None:
        super().__init__()
        steps = int(width / 4 / _SQUEEZE_STEP + 0.5)
        squeezed = _SQUEEZE_STEP * max(steps, 1)
        self.fc1 = nn.Conv2d(width, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, width, 1)

    def forward(self, cells: Tensor) -> Tensor:
        means = cells.mean((2, 3), keepdim=True)
        return cast(Tensor, cells * self.fc2(self.fc1(means).relu()).sigmoid())


class _ChannelMixer(nn.Module):
    """Two 1 x 1 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = _conv_norm(width, 2 * width)
        self.act = nn.GELU()
        self.conv2 = _conv_norm(2 * width, width)

    def forward(self, cells: Tensor) -> Tensor:
        return cast(Tensor, self.conv2(self.act(self.conv1(cells))))


class _Block(nn.Module):
    """Mixes tokens, then channels."""

    def __init__(self, width: int, *, squeezes: bool) -> None:
        super().__init__()
        self.token_mixer = _TokenMixer(width)
        self.se = _SqueezeExcite(width) if squeezes else nn.Identity()
        self.channel_mixer = _ChannelMixer(width)

    def forward(self, cells: Tensor) -> Tensor:
        mixed = self.se(self.token_mixer(cells))
        return cast(Tensor, mixed + self.channel_mixer(mixed))


class _Downsample(nn.Module):
    """Halves the grid and changes its width."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.pre_block = _Block(inputs, squeezes=False)
        self.spatial_downsample = _conv_norm(inputs, inputs, 3, stride=2, groups=inputs)
        self.channel_downsample = _conv_norm(inputs, outputs)
        self.ffn = _ChannelMixer(outputs)

    def forward(self, cells: Tensor) -> Tensor:
        halved = self.channel_downsample(self.spatial_downsample(self.pre_block(cells)))
        return cast(Tensor, halved + self.ffn(halved))


class _Stage(nn.Module):
    """Blocks of one width; every other one squeezes."""

    def __init__(self, inputs: int, outputs: int, depth: int) -> None:
        super().__init__()
        self.downsample = nn.Identity() if inputs == outputs else _Downsample(inputs, outputs)
        self.blocks = nn.Sequential(
            *(_Block(outputs, squeezes=number % 2 == 0) for number in range(depth))
        )

    def forward(self, cells: Tensor) -> Tensor:
        return cast(Tensor, self.blocks(self.downsample(cells)))


class _Features(nn.Module):
    """Stem and stages, under the names of timm's feature extractor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Stem(_WIDTHS[0])
        inputs = _WIDTHS[0]
        for number, (width, depth) in enumerate(zip(_WIDTHS, _DEPTHS, strict=True)):
            self.add_module(f"stages_{number}", _Stage(inputs, width, depth))
            inputs = width

    def forward(self, pixels: Tensor) -> list[Tensor]:
        cells, maps = self.stem(pixels), []
        for number in range(len(_WIDTHS)):
            cells = getattr(self, f"stages_{number}")(cells)
            maps.append(cells)
        return maps


class RepVitConfig(PreTrainedConfig):  # type: ignore[misc]
    """Names RepViT-M1 among the backbones; it has no options."""

    model_type = "calico_repvit_m1"


@dataclass
class RepVitOutput(BaseModelOutput):  # type: ignore[misc]
    """Feature maps as `last_hidden_state`: four (B, C, h, w), from stride 4 to 32."""


class RepVitModel(PreTrainedModel):  # type: ignore[misc]
    """RepViT-M1 as a model of `transformers`."""

    config_class = RepVitConfig
    main_input_name = "pixel_values"

    def __init__(self, config: RepVitConfig) -> None:
        super().__init__(config)
        self.timm_model = _Features()
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Leaves torch's own start values; published weights replace all of them."""

    def forward(self, pixel_values: Tensor, **_options: Any) -> RepVitOutput:
        """Returns the feature maps of (B, 3, H, W) pixels."""
        return RepVitOutput(last_hidden_state=self.timm_model(pixel_values))


AutoConfig.register(RepVitConfig.model_type, RepVitConfig, exist_ok=True)
AutoModel.register(RepVitConfig, RepVitModel, exist_ok=True)
