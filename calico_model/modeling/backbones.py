"""Builds the frozen parts of CALICO from a configuration; no forward logic but the trunk's.

Legend: M images, C channels, H W cells, T tokens, D width.
The same classes serve every size: `transformers` for EVA, Q-Former, DINOv2 and Llama,
`segment_anything` for SAM. A small model feeds them cells of a shared trunk instead of pixels.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from types import ModuleType
from typing import cast

import torch
from torch import Tensor, nn
from transformers import (
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    InstructBlipVisionConfig,
    InstructBlipVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from calico_model.config import CalicoConfig, EncoderConfig, MaskConfig, TrunkConfig


def _import_sam() -> ModuleType:
    """Imports `segment_anything.modeling`, also where torchvision is missing or broken.

    The package's `__init__` imports its predictor, which needs torchvision; the modules composed
    here do not. When that import fails, a bare package object takes its place, so that the
    submodules still load.
    """
    try:
        importlib.import_module("segment_anything")
    except (ImportError, OSError, RuntimeError):
        spec = importlib.util.find_spec("segment_anything")
        if spec is None or spec.submodule_search_locations is None:
            raise
        package = ModuleType("segment_anything")
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec
        for name in [n for n in sys.modules if n.split(".")[0] == "segment_anything"]:
            del sys.modules[name]
        sys.modules["segment_anything"] = package
    return importlib.import_module("segment_anything.modeling")


_sam = _import_sam()

ImageEncoderViT = _sam.ImageEncoderViT
LayerNorm2d = _sam.common.LayerNorm2d
MaskDecoder = _sam.MaskDecoder
PromptEncoder = _sam.PromptEncoder
TwoWayTransformer = _sam.TwoWayTransformer


class ResidualBlock(nn.Module):
    """Residual block of two 3x3 convolutions; the second norm starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (M, C, H, W) to the same shape."""
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(x + self.norm2(self.conv2(y)))


class Trunk(nn.Module):
    """Shared convolutional stem with a short top-down path.

    Returns features at strides 2, 4, 8 and 16; stride 8 has been enriched from stride 16, so the
    mask path sees what the object is and the token paths see it at full depth.
    """

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        previous = 3
        for width, depth in zip(config.widths, config.depths, strict=True):
            stages.append(
                nn.Sequential(
                    nn.Conv2d(previous, width, 3, stride=2, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                    *(ResidualBlock(width) for _ in range(depth)),
                )
            )
            previous = width
        self.stages = nn.ModuleList(stages)
        self.lateral = nn.Conv2d(config.widths[-1], config.widths[-2], 1)
        self.merge = ResidualBlock(config.widths[-2])

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Maps (M, 3, S, S) normalised pixels to maps at strides 2, 4, 8, 16."""
        maps: list[Tensor] = []
        x = pixels
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        down = nn.functional.interpolate(self.lateral(maps[-1]), scale_factor=2.0, mode="nearest")
        maps[-2] = self.merge(maps[-2] + down)
        return tuple(maps)


def build_eva(config: EncoderConfig) -> InstructBlipVisionModel:
    """EVA-CLIP-style encoder with its final norm (`ln_vision`)."""
    model = InstructBlipVisionModel(
        InstructBlipVisionConfig(
            hidden_size=config.width,
            intermediate_size=config.mlp,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
            initializer_range=0.02,
        )
    )
    if config.channels != 3:
        embeddings = model.embeddings
        embeddings.patch_embedding = nn.Conv2d(
            config.channels, config.width, config.patch_size, stride=config.patch_size
        )
    return model


def build_dino(config: EncoderConfig) -> Dinov2WithRegistersModel:
    """DINOv2 with registers."""
    return Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            mlp_ratio=config.mlp // config.width,
            image_size=config.image_size,
            patch_size=config.patch_size,
            num_channels=config.channels,
            num_register_tokens=config.registers,
            use_swiglu_ffn=config.gated,
        )
    )


def build_qformer(config: CalicoConfig) -> Blip2QFormerModel:
    """Q-Former, query path only: no text embeddings, no text feed-forward."""
    return Blip2QFormerModel(
        Blip2QFormerConfig(
            hidden_size=config.qformer.width,
            intermediate_size=config.qformer.mlp,
            num_hidden_layers=config.qformer.layers,
            num_attention_heads=config.qformer.heads,
            cross_attention_frequency=config.qformer.cross_attention_every,
            encoder_hidden_size=config.eva.width,
            use_qformer_text_input=False,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def build_sam_encoder(config: MaskConfig) -> nn.Module:
    """SAM's ViT with its convolutional neck; the output is (M, prompt_width, G, G)."""
    encoder = config.encoder
    return cast(
        nn.Module,
        ImageEncoderViT(
            img_size=encoder.image_size,
            patch_size=encoder.patch_size,
            in_chans=encoder.channels,
            embed_dim=encoder.width,
            depth=encoder.layers,
            num_heads=encoder.heads,
            mlp_ratio=encoder.mlp / encoder.width,
            out_chans=config.prompt_width,
            qkv_bias=True,
            norm_layer=_layer_norm,
            use_rel_pos=config.relative_positions,
            window_size=config.window,
            global_attn_indexes=config.global_layers,
        ),
    )


def _layer_norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6)


def build_language(config: CalicoConfig) -> LlamaForCausalLM:
    """Llama; untied output head, as in Vicuna.

    Its attention is PyTorch's ("sdpa"): it is causal without a mask, and it accepts masks of
    booleans. The form "eager" would attend to every position, and would add the booleans.
    """
    language = config.language
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=language.vocab_size,
            hidden_size=language.width,
            intermediate_size=language.mlp,
            num_hidden_layers=language.layers,
            num_attention_heads=language.heads,
            num_key_value_heads=language.heads,
            max_position_embeddings=language.max_positions,
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="sdpa",
        )
    )


@torch.no_grad()
def initialise_from_scratch(module: nn.Module, *, gain: float = 0.8) -> None:
    """Scales every linear and convolution weight to std gain/sqrt(fan_in).

    The default ranges of the composed libraries (1e-10 and 0.02) leave encoders of width ~200
    dead; calico-tiny starts from this instead.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            fan_in = part.weight[0].numel()
            nn.init.normal_(part.weight, std=gain / math.sqrt(fan_in))
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=gain / math.sqrt(part.embedding_dim))
