"""The two models in use, as configurations: calico-tiny, trained and shipped here; the paper's 7B.

calico-tiny has a vocabulary of its own, which is here too.
"""

from __future__ import annotations

from calico_model import prompts
from calico_model.config import (
    CalicoConfig,
    EncoderConfig,
    LanguageConfig,
    MaskConfig,
    PhotoTrunkConfig,
    QFormerConfig,
    TrunkConfig,
)
from calico_model.data.catalogue import HELD_OUT_PARTS, PART_NAMES, TRAINED_CATEGORIES
from calico_model.tokenizer import Tokenizer, build_small_tokenizer


def tiny(vocab_size: int, *, name: str = "calico-tiny") -> CalicoConfig:
    """The model trained and shipped here: the 7B wiring at laptop size, on 128 px squares."""
    trunk = TrunkConfig()
    return CalicoConfig(
        name=name,
        image_size=128,
        trunk=trunk,
        eva=EncoderConfig(8, 8, 1, 256, 2, 4, 768, channels=256),
        dino=EncoderConfig(8, 8, 1, 128, 2, 4, 512, channels=256, registers=2),
        qformer=QFormerConfig(16, 192, 2, 4, 512, cross_attention_every=1),
        mask=MaskConfig(
            encoder=EncoderConfig(16, 16, 1, 128, 1, 4, 384, channels=128),
            window=8,
            global_layers=(),
            relative_positions=False,
            prompt_width=128,
            decoder_heads=4,
            decoder_mlp=256,
            high_resolution=True,
        ),
        language=LanguageConfig(vocab_size, 256, 6, 4, 704, max_positions=1024),
        cem_heads=4,
        asks_in_pairs=True,
        photo_trunk=PhotoTrunkConfig(),
    )


def small_tokenizer() -> Tokenizer:
    """Builds calico-tiny's tokenizer: wordings and trained names are whole words.

    Held-out names are spelled, like any name of a project that training never met.
    """
    parts = [name for name in PART_NAMES if name not in HELD_OUT_PARTS]
    names = {word for name in (*TRAINED_CATEGORIES, *parts) for word in name.split()}
    return build_small_tokenizer([*prompts.known_words(), *sorted(names)])


def full(*, name: str = "calico-7b") -> CalicoConfig:
    """CALICO-7B from its public parts (EVA-CLIP-g, InstructBLIP, DINOv2-B, SAM-H, Vicuna-7B)."""
    return CalicoConfig(
        name=name,
        image_size=1024,
        trunk=None,
        eva=EncoderConfig(224, 224, 14, 1408, 39, 16, 6144),
        dino=EncoderConfig(518, 224, 14, 768, 12, 12, 3072, registers=4),
        qformer=QFormerConfig(32, 768, 12, 12, 3072),
        mask=MaskConfig(
            encoder=EncoderConfig(1024, 1024, 16, 1280, 32, 16, 5120),
            window=14,
            global_layers=(7, 15, 23, 31),
            relative_positions=True,
            prompt_width=256,
            decoder_heads=8,
            decoder_mlp=2048,
        ),
        language=LanguageConfig(32007, 4096, 32, 32, 11008, max_positions=4096),
        system_prompt=(
            "A chat between a curious human and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the human's questions."
        ),
    )
