"""Small random models of the real classes of transformers, and tokenizers of their kind."""

from __future__ import annotations

import string
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from calico_model.sources.source import Ability, SourceDescription
from calico_model.types import RgbImage


def description(name: str, *abilities: Ability) -> SourceDescription:
    return SourceDescription(name, frozenset(abilities), "0" * 12, "none", 1)


def picture(height: int = 60, width: int = 90, seed: int = 0) -> RgbImage:
    """Coloured rectangles on noise."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
    for _ in range(4):
        y, x = rng.integers(0, height - 20), rng.integers(0, width - 30)
        image[y : y + 20, x : x + 30] = rng.integers(60, 255, 3)
    return image


@torch.no_grad()
def scattered(model: nn.Module, scale: float = 0.2) -> nn.Module:
    """Gives every weight a size at which answers differ from query to query."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator) * scale
        parameter.copy_(noise if parameter.ndim > 1 else parameter + 0.2 * noise)
    return model.eval()


def clip_tokenizer(length: int) -> Any:
    """CLIP's tokenizer over single characters."""
    from transformers import CLIPTokenizer

    characters = string.ascii_lowercase + string.digits + "-.,"
    words = ["!", *characters, *(f"{character}</w>" for character in characters)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return CLIPTokenizer(vocab=vocabulary, merges=[], pad_token="!", model_max_length=length)


def bert_tokenizer() -> Any:
    """BERT's tokenizer with the ids of special tokens that Grounding DINO counts on."""
    from transformers import BertTokenizer

    vocabulary = {f"[unused{number}]": number for number in range(1200)}
    known = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
    known |= {".": 1012, "?": 1029}
    letters = string.ascii_lowercase + string.digits
    known |= {letter: 200 + number for number, letter in enumerate(letters)}
    known |= {f"##{letter}": 300 + number for number, letter in enumerate(letters)}
    by_number = {number: word for word, number in vocabulary.items()}
    by_number |= {number: word for word, number in known.items()}
    return BertTokenizer(vocab={by_number[number]: number for number in sorted(by_number)})


def sam3_model(*, lite: bool = False) -> Any:
    """SAM 3 of 56 pixels and 8 queries."""
    from transformers import Sam3Config, Sam3LiteTextConfig, Sam3LiteTextModel, Sam3Model

    size = {"hidden_size": 32, "num_attention_heads": 2}
    layers = {**size, "num_layers": 1, "intermediate_size": 64, "dropout": 0.0}
    vit = {
        "model_type": "sam3_vit_model",
        **size,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "image_size": 56,
        "patch_size": 14,
        "window_size": 2,
        "global_attn_indexes": [1],
        "pretrain_image_size": 28,
    }
    text = {
        **size,
        "model_type": "sam3_lite_text_text_model" if lite else "clip_text_model",
        "vocab_size": 100,
        "intermediate_size": 64,
        "projection_dim": 16,
        "num_hidden_layers": 2,
        "max_position_embeddings": 32,
        "hidden_act": "gelu",
    }
    shape: dict[str, Any] = {
        "vision_config": {
            "model_type": "sam3_vision_model",
            "backbone_config": vit,
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        "text_config": text,
        "geometry_encoder_config": layers,
        "detr_encoder_config": layers,
        "detr_decoder_config": {**layers, "num_queries": 8},
        "mask_decoder_config": size,
    }
    torch.manual_seed(0)
    if lite:
        return scattered(Sam3LiteTextModel(Sam3LiteTextConfig(**shape)))
    return scattered(Sam3Model(Sam3Config(**shape)))


def grounding_dino_model() -> Any:
    """Grounding DINO with 12 queries."""
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection

    config = GroundingDinoConfig(
        backbone_config={
            "model_type": "swin",
            "embed_dim": 8,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 2, 2, 2],
            "window_size": 2,
            "out_indices": [2, 3, 4],
        },
        text_config={
            "model_type": "bert",
            "vocab_size": 1200,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
        d_model=32,
        num_queries=12,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
    )
    torch.manual_seed(0)
    return scattered(GroundingDinoForObjectDetection(config), 0.15)


def owlv2_model() -> Any:
    """OWLv2 of 32 pixels and 16 patches."""
    from transformers import Owlv2Config, Owlv2ForObjectDetection

    size = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = Owlv2Config(
        vision_config={**size, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8},
        text_config={
            **size,
            "num_hidden_layers": 1,
            "vocab_size": 100,
            "max_position_embeddings": 40,
            "bos_token_id": 79,
            "eos_token_id": 80,
        },
        projection_dim=16,
    )
    torch.manual_seed(0)
    return scattered(Owlv2ForObjectDetection(config))


def clip_model() -> Any:
    """CLIP of 32 pixels and 8 x 8 patches."""
    from transformers import CLIPConfig, CLIPModel

    size = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    layers = {**size, "num_hidden_layers": 2}
    config = CLIPConfig(
        vision_config={**layers, "image_size": 32, "patch_size": 4},
        text_config={
            **layers,
            "vocab_size": 100,
            "max_position_embeddings": 60,
            "bos_token_id": 79,
            "eos_token_id": 80,
        },
        projection_dim=16,
    )
    torch.manual_seed(0)
    return scattered(CLIPModel(config))


def dino_model(kind: str) -> Any:
    """A transformer of DINO's kind: vit, dinov2 or dinov3."""
    from transformers import (
        Dinov2Config,
        Dinov2Model,
        DINOv3ViTConfig,
        DINOv3ViTModel,
        ViTConfig,
        ViTModel,
    )

    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(1)
    match kind:
        case "vit":
            shape = {**size, "intermediate_size": 64, "image_size": 64, "patch_size": 4}
            return scattered(ViTModel(ViTConfig(**shape)))
        case "dinov2":
            return scattered(Dinov2Model(Dinov2Config(**size, image_size=56, patch_size=7)))
        case _:
            shape = {**size, "intermediate_size": 64, "image_size": 64, "patch_size": 8}
            return scattered(DINOv3ViTModel(DINOv3ViTConfig(**shape, num_register_tokens=2)))


def stand_in_for_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets transformers' processors that ask for torchvision run: its three functions in torch."""
    import sys

    import transformers.image_processing_backends as backends
    from transformers.image_utils import PILImageResampling

    def resize(
        image: Tensor, size: tuple[int, int], interpolation: str, antialias: bool
    ) -> Tensor:  # torchvision calls torch for bytes, too
        scaled = nn.functional.interpolate(
            image[None] if image.ndim == 3 else image,
            size=size,
            mode=interpolation,
            antialias=antialias,
        )
        return scaled[0] if image.ndim == 3 else scaled

    def normalize(image: Tensor, mean: Tensor, std: Tensor, inplace: bool) -> Tensor:
        return (image - torch.as_tensor(mean)[:, None, None]) / torch.as_tensor(std)[:, None, None]

    modes = SimpleNamespace(LANCZOS="lanczos", BILINEAR="bilinear", BICUBIC="bicubic")
    functions = SimpleNamespace(resize=resize, normalize=normalize, InterpolationMode=modes)
    monkeypatch.setattr(backends, "tvF", functions, raising=False)
    names = {PILImageResampling.BILINEAR: "bilinear"}
    monkeypatch.setattr(backends, "pil_torch_interpolation_mapping", names)
    for name in ("torchvision", "torchvision.ops", "torchvision.ops.boxes"):
        module = ModuleType(name)
        module.batched_nms = None  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
