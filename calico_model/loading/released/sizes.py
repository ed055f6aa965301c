"""Sizes of a network from the shapes of its weights; shapes win over any configuration.

Knows canonical names and shapes. What no shape determines (heads without relative positions, input
sizes, whether CEM adds its input) stays as in the base configuration. The width of a head is kept,
so twice the width means twice the heads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from math import isqrt

from calico_model.config import (
    CalicoConfig,
    EncoderConfig,
    LanguageConfig,
    LoraConfig,
    MaskConfig,
    QFormerConfig,
)
from calico_model.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]

_LORA = re.compile(r"language\.model\.layers\.\d+\.\w+\.(\w+)\.lora_A\.default\.weight")


def fit_config(base: CalicoConfig, shapes: Shapes, *, vocab_size: int) -> CalicoConfig:
    """Returns `base` with every size that the weights determine.

    Args:
        base: for parts without weights, and for what shapes do not determine.
        shapes: by canonical name.
        vocab_size: rows of embedding and head, which new tokens may raise.

    Raises:
        CheckpointError: shapes no CALICO has; the message names the tensor.
    """
    eva, dino = _eva(base.eva, shapes), _dino(base.dino, shapes)
    mask = _mask(base.mask, shapes)
    return replace(
        base,
        image_size=mask.encoder.image_size,
        eva=eva,
        dino=dino,
        qformer=_qformer(base.qformer, shapes),
        mask=mask,
        language=_language(base.language, shapes, vocab_size),
        lora=_lora(base.lora, shapes),
        cams=_count(r"cams\.(\d+)\.", shapes) or base.cams,
        cem_heads=_heads(base.eva.width, base.cem_heads, eva.width, "eva"),
        cem_norms="cem.query_norm.weight" in shapes if _has_cem(shapes) else base.cem_norms,
        cem_projection=(
            "cem.projection.weight" in shapes if _has_cem(shapes) else base.cem_projection
        ),
    )


def _has_cem(shapes: Shapes) -> bool:
    return "cem.attention.out_proj.weight" in shapes


def _eva(base: EncoderConfig, shapes: Shapes) -> EncoderConfig:
    width, channels, patch, _ = _shape(shapes, "eva.embeddings.patch_embedding.weight", 4)
    tokens = _shape(shapes, "eva.embeddings.position_embedding", 3)[1]
    side = _side("eva.embeddings.position_embedding", tokens) * patch
    return replace(
        base,
        image_size=side,
        input_size=side,
        patch_size=patch,
        channels=channels,
        width=width,
        layers=_count(r"eva\.encoder\.layers\.(\d+)\.", shapes),
        heads=_heads(base.width, base.heads, width, "eva.embeddings.patch_embedding.weight"),
        mlp=_shape(shapes, "eva.encoder.layers.0.mlp.fc1.weight", 2)[0],
    )


def _dino(base: EncoderConfig, shapes: Shapes) -> EncoderConfig:
    name = "dino.embeddings.patch_embeddings.projection.weight"
    width, channels, patch, _ = _shape(shapes, name, 4)
    table = "dino.embeddings.position_embeddings"
    side = _side(table, _shape(shapes, table, 3)[1]) * patch
    is_gated = "dino.encoder.layer.0.mlp.gate_proj.weight" in shapes
    # A gated layer of DINOv2 is 2/3 as wide as the plain one of the same model, which is 4 D.
    plain = "dino.encoder.layer.0.mlp.fc1.weight"
    mlp = 4 * width if is_gated else _shape(shapes, plain, 2)[0]
    return replace(
        base,
        image_size=side,
        input_size=_input_size(base, side, patch),
        patch_size=patch,
        channels=channels,
        width=width,
        layers=_count(r"dino\.encoder\.layer\.(\d+)\.", shapes),
        heads=_heads(base.width, base.heads, width, name),
        mlp=mlp,
        registers=_shape(shapes, "dino.embeddings.register_tokens", 3)[1],
        gated=is_gated,
    )


def _input_size(base: EncoderConfig, side: int, patch: int) -> int:
    """Keeps the number of tokens, or the whole table if the base feeds the whole table."""
    if base.input_size == base.image_size:
        return side
    return base.input_size // base.patch_size * patch


def _qformer(base: QFormerConfig, shapes: Shapes) -> QFormerConfig:
    queries, width = _shape(shapes, "query_tokens", 2)
    layers = _count(r"qformer\.encoder\.layer\.(\d+)\.", shapes)
    crossing = _indices(r"qformer\.encoder\.layer\.(\d+)\.crossattention\.", shapes)
    every = crossing[1] - crossing[0] if len(crossing) > 1 else layers
    if crossing != list(range(0, layers, every)):
        raise CheckpointError(
            f"qformer.encoder.layer: expected a cross-attention in every n-th layer from the "
            f"first on, got layers {crossing}"
        )
    return QFormerConfig(
        queries=queries,
        width=width,
        layers=layers,
        heads=_heads(base.width, base.heads, width, "query_tokens"),
        mlp=_shape(shapes, "qformer.encoder.layer.0.intermediate_query.dense.weight", 2)[0],
        cross_attention_every=every,
    )


def _mask(base: MaskConfig, shapes: Shapes) -> MaskConfig:
    width, channels, patch, _ = _shape(shapes, "sam_encoder.patch_embed.proj.weight", 4)
    grid = _shape(shapes, "sam_encoder.pos_embed", 4)[1]
    layers = _count(r"sam_encoder\.blocks\.(\d+)\.", shapes)
    tables = {
        k: shapes[name]
        for k in range(layers)
        if (name := f"sam_encoder.blocks.{k}.attn.rel_pos_h") in shapes
    }
    window, everywhere = base.window, base.global_layers
    if not tables:
        heads = _heads(base.encoder.width, base.encoder.heads, width, "sam_encoder.patch_embed")
    else:
        # A table has 2 n - 1 rows for n positions, and the width of one head.
        heads = width // tables[0][1]
        everywhere = tuple(k for k, shape in tables.items() if shape[0] == 2 * grid - 1)
        local = {(shape[0] + 1) // 2 for k, shape in tables.items() if k not in everywhere}
        if len(local) > 1:
            raise CheckpointError(
                f"sam_encoder.blocks: expected one window size, got {sorted(local)}"
            )
        window = local.pop() if local else 0
    return replace(
        base,
        encoder=replace(
            base.encoder,
            image_size=grid * patch,
            input_size=grid * patch,
            patch_size=patch,
            channels=channels,
            width=width,
            layers=layers,
            heads=heads,
            mlp=_shape(shapes, "sam_encoder.blocks.0.mlp.lin1.weight", 2)[0],
        ),
        window=window,
        global_layers=everywhere,
        relative_positions=bool(tables),
        prompt_width=_shape(shapes, "sam_encoder.neck.0.weight", 4)[0],
        decoder_mlp=_shape(
            shapes, "mask_decoder.mask_decoder.transformer.layers.0.mlp.lin1.weight", 2
        )[0],
    )


def _language(base: LanguageConfig, shapes: Shapes, vocab_size: int) -> LanguageConfig:
    width = _shape(shapes, "language.model.embed_tokens.weight", 2)[1]
    return LanguageConfig(
        vocab_size=vocab_size,
        width=width,
        layers=_count(r"language\.model\.layers\.(\d+)\.", shapes),
        heads=_heads(base.width, base.heads, width, "language.model.embed_tokens.weight"),
        mlp=_shape(shapes, "language.model.layers.0.mlp.gate_proj.weight", 2)[0],
        max_positions=base.max_positions,
    )


def _lora(base: LoraConfig, shapes: Shapes) -> LoraConfig:
    shapes_of = {
        match[1]: shape for name, shape in shapes.items() if (match := _LORA.fullmatch(name))
    }
    if not shapes_of:
        return base
    ranks = {shape[0] for shape in shapes_of.values()}
    if len(ranks) > 1:
        raise CheckpointError(f"lora_A: expected one rank, got {sorted(ranks)}")
    # The scale alpha / rank is the trained one; no tensor holds it.
    rank = ranks.pop()
    alpha = base.alpha * rank // base.rank if base.rank else 2 * rank
    return replace(base, rank=rank, alpha=alpha, targets=tuple(sorted(shapes_of)))


def _shape(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    if name not in shapes:
        raise CheckpointError(f"{name}: missing")
    if len(shapes[name]) != dimensions:
        raise CheckpointError(f"{name}: expected {dimensions} dimensions, got shape {shapes[name]}")
    return shapes[name]


def _indices(pattern: str, shapes: Shapes) -> list[int]:
    return sorted({int(match[1]) for name in shapes if (match := re.match(pattern, name))})


def _count(pattern: str, shapes: Shapes) -> int:
    return max(_indices(pattern, shapes), default=-1) + 1


def _side(name: str, tokens: int) -> int:
    """Side of the square grid behind a position table with a class token."""
    side = isqrt(tokens - 1)
    if side * side != tokens - 1:
        raise CheckpointError(f"{name}: expected a square grid and one token, got {tokens} rows")
    return side


def _heads(base_width: int, base_heads: int, width: int, name: str) -> int:
    each = base_width // base_heads
    if width % each:
        raise CheckpointError(f"{name}: width {width} is not made of heads of {each}")
    return width // each
