"""The real model at the smallest size that still has every part (three encoders, two CAMs)."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from calico_model.config import (
    AblationConfig,
    CalicoConfig,
    EncoderConfig,
    LanguageConfig,
    LoraConfig,
    MaskConfig,
    PhotoTrunkConfig,
    QFormerConfig,
)
from calico_model.modeling.model import Calico
from calico_model.modeling.photo_trunk import PhotoTrunk, load_photo_trunk, weights_file
from calico_model.presets import small_tokenizer
from calico_model.tokenizer import Tokenizer

# Tests hold on a machine that is busy with something else: no time is a reason to fail.
settings.register_profile("calm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("calm")


def micro_config(
    vocab_size: int,
    *,
    ablation: AblationConfig | None = None,
    lora_rank: int = 4,
    cams: int = 2,
    photo_side: int | None = None,
) -> CalicoConfig:
    return CalicoConfig(
        name="calico-micro",
        image_size=64,
        trunk=None,
        eva=EncoderConfig(28, 28, 7, 48, 2, 4, 96),
        dino=EncoderConfig(28, 28, 7, 24, 2, 2, 48, registers=2),
        qformer=QFormerConfig(4, 32, 2, 2, 64),
        mask=MaskConfig(
            encoder=EncoderConfig(64, 64, 8, 32, 2, 2, 64),
            window=4,
            global_layers=(1,),
            relative_positions=True,
            prompt_width=32,
            decoder_heads=4,
            decoder_mlp=64,
        ),
        language=LanguageConfig(vocab_size, 64, 4, 4, 128, max_positions=512),
        lora=LoraConfig(rank=lora_rank, dropout=0.0),
        ablation=ablation or AblationConfig(),
        cams=cams,
        cem_heads=4,
        max_answer_tokens=24,
        photo_trunk=None if photo_side is None else PhotoTrunkConfig(side=photo_side),
    )


def build_micro(vocab_size: int, **changes: object) -> Calico:
    torch.manual_seed(5)
    model = Calico(micro_config(vocab_size, **changes))  # type: ignore[arg-type]
    model.initialise()
    return model.eval()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return small_tokenizer()


@pytest.fixture
def model(tokenizer: Tokenizer) -> Calico:
    return build_micro(tokenizer.size)


@pytest.fixture(scope="session")
def photo_trunk() -> PhotoTrunk:
    kind = PhotoTrunkConfig().kind
    return load_photo_trunk(kind, weights_file(kind))


@pytest.fixture
def photo_model(tokenizer: Tokenizer, photo_trunk: PhotoTrunk) -> Calico:
    """With the photo trunk at 128 pixels, so that its logit side is that of the others."""
    model = build_micro(tokenizer.size, photo_side=128)
    model._photo_trunk.append(photo_trunk)
    return model


@pytest.fixture
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 255, size, dtype=np.uint8) for size in ((40, 60, 3), (50, 30, 3))]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    random.seed(0)
