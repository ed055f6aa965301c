"""calico-tiny's wiring, trunk included, at a size that trains in a second."""

from __future__ import annotations

from pathlib import Path

import torch

from calico_model.config import (
    CalicoConfig,
    EncoderConfig,
    LanguageConfig,
    LoraConfig,
    MaskConfig,
    QFormerConfig,
    TrunkConfig,
)
from calico_model.loading.checkpoints import save_model
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer


def minute_config(vocab_size: int) -> CalicoConfig:
    return CalicoConfig(
        name="calico-minute",
        image_size=64,
        trunk=TrunkConfig(widths=(4, 8, 16, 16), depths=(1, 1, 1, 1)),
        eva=EncoderConfig(4, 4, 1, 32, 1, 2, 64, channels=16),
        dino=EncoderConfig(4, 4, 1, 16, 1, 2, 32, channels=16, registers=2),
        qformer=QFormerConfig(4, 16, 1, 2, 32, cross_attention_every=1),
        mask=MaskConfig(
            encoder=EncoderConfig(8, 8, 1, 16, 1, 2, 32, channels=16),
            window=4,
            global_layers=(),
            relative_positions=False,
            prompt_width=32,
            decoder_heads=4,
            decoder_mlp=32,
            high_resolution=True,
        ),
        language=LanguageConfig(vocab_size, 32, 4, 2, 64, max_positions=512),
        lora=LoraConfig(rank=2, dropout=0.0),
        cem_heads=2,
        max_answer_tokens=8,
    )


def minute_model(vocab_size: int) -> Calico:
    torch.manual_seed(3)
    model = Calico(minute_config(vocab_size))
    model.initialise()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("cams.", "cem.")) and parameter.ndim > 1:
                parameter.normal_(std=0.1)  # as training leaves them: not zero
    return model.eval()


def save_minute(folder: Path, tokenizer: Tokenizer) -> Path:
    save_model(minute_model(tokenizer.size), tokenizer, folder, dtype=torch.float32)
    return folder
