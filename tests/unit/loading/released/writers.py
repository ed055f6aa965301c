"""Small released checkpoints, each written in the names and files of its real counterpart.

Reference modules come from the libraries that released them; where only names are known (LAVIS,
GLaMM, DINOv2's repository) they are spelled out here, apart from the loaders' own tables.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    SamConfig,
    SamModel,
)

from calico_model.config import CalicoConfig
from calico_model.modeling.backbones import (
    MaskDecoder,
    PromptEncoder,
    TwoWayTransformer,
    build_sam_encoder,
)
from tests.conftest import micro_config

State = dict[str, Tensor]
M = TypeVar("M", bound=nn.Module)

WORDS = ("the", "leg", "common", "IMAGE", "USER", "ASSISTANT", "▁the", "▁leg", "▁(")
TAGS = ("<im_start>", "<im_end>", "<bbox>", "<point>", "[SEG]", "<p>", "</p>")


@torch.no_grad()
def shaken(module: M) -> M:
    """Gives every weight a value of its own, norms and biases too."""
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.randn_like(tensor) * 0.1)
    return module.eval()


def base_config() -> CalicoConfig:
    """Sizes the small releases are made in."""
    return micro_config(len(sentencepiece_pieces()) + len(TAGS))


# --- tokenizers ------------------------------------------------------------------------------


def sentencepiece_pieces() -> list[tuple[str, float, int]]:
    """(piece, score, kind): control, bytes, merged pieces by falling score, letters."""
    letters = sorted({letter for word in WORDS for letter in word} | set("▁:.12)\nSaredi"))
    merged: list[str] = []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            if word[:end] not in merged:
                merged.append(word[:end])
    special = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    byte = [(f"<0x{k:02X}>", 0.0, 6) for k in range(256)]
    normal = [(piece, -float(k), 1) for k, piece in enumerate((*merged, *letters))]
    return special + byte + normal


def sentencepiece_model(*, model_type: int = 2) -> bytes:
    """Serialises a ModelProto: pieces in field 1, the trainer's settings in field 2."""

    def field(number: int, body: bytes) -> bytes:
        return _varint(number << 3 | 2) + _varint(len(body)) + body

    model = b""
    for piece, score, kind in sentencepiece_pieces():
        entry = field(1, piece.encode()) + b"\x15" + struct.pack("<f", score)
        model += field(1, entry + b"\x18" + _varint(kind))
    return model + field(2, b"\x18" + _varint(model_type))


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def write_llama_tokenizer(folder: Path, *, tags: bool) -> None:
    """`tokenizer.model`, and `added_tokens.json` when the tags of GLaMM are known."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    if tags:
        first = len(sentencepiece_pieces())
        listed = {token: first + k for k, token in enumerate(TAGS)}
        (folder / "added_tokens.json").write_text(json.dumps(listed))


# --- reference parts -------------------------------------------------------------------------


def llama(rows: int, config: CalicoConfig) -> LlamaForCausalLM:
    language = config.language
    return shaken(
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=rows,
                hidden_size=language.width,
                intermediate_size=language.mlp,
                num_hidden_layers=language.layers,
                num_attention_heads=language.heads,
                num_key_value_heads=language.heads,
                rms_norm_eps=1e-5,
                tie_word_embeddings=False,
            )
        )
    )


def instructblip(config: CalicoConfig) -> InstructBlipForConditionalGeneration:
    eva, qformer = config.eva, config.qformer
    return shaken(
        InstructBlipForConditionalGeneration(
            InstructBlipConfig(
                vision_config={
                    "hidden_size": eva.width,
                    "intermediate_size": eva.mlp,
                    "num_hidden_layers": eva.layers,
                    "num_attention_heads": eva.heads,
                    "image_size": eva.image_size,
                    "patch_size": eva.patch_size,
                },
                qformer_config={
                    "vocab_size": 20,
                    "hidden_size": qformer.width,
                    "intermediate_size": qformer.mlp,
                    "num_hidden_layers": qformer.layers,
                    "num_attention_heads": qformer.heads,
                    "encoder_hidden_size": eva.width,
                    "cross_attention_frequency": qformer.cross_attention_every,
                    "hidden_dropout_prob": 0.0,
                    "attention_probs_dropout_prob": 0.0,
                    "max_position_embeddings": 12,
                },
                text_config={
                    "model_type": "llama",
                    "vocab_size": 40,
                    "hidden_size": config.language.width,
                    "intermediate_size": 32,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 4,
                },
                num_query_tokens=qformer.queries,
            )
        )
    )


def dino(config: CalicoConfig, *, gated: bool = False) -> Dinov2WithRegistersModel:
    encoder = config.dino
    return shaken(
        Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(
                hidden_size=encoder.width,
                num_hidden_layers=encoder.layers,
                num_attention_heads=encoder.heads,
                mlp_ratio=4 if gated else encoder.mlp // encoder.width,
                image_size=encoder.image_size,
                patch_size=encoder.patch_size,
                num_register_tokens=encoder.registers,
                use_swiglu_ffn=gated,
            )
        )
    )


class Sam(nn.Module):
    """The three modules of `segment_anything.Sam`, without its torchvision."""

    def __init__(self, config: CalicoConfig) -> None:
        super().__init__()
        mask = config.mask
        grid = mask.encoder.image_size // mask.encoder.patch_size
        self.image_encoder = build_sam_encoder(mask)
        self.prompt_encoder = PromptEncoder(
            embed_dim=mask.prompt_width,
            image_embedding_size=(grid, grid),
            input_image_size=(mask.encoder.image_size,) * 2,
            mask_in_chans=16,
        )
        self.mask_decoder = MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2,
                embedding_dim=mask.prompt_width,
                mlp_dim=mask.decoder_mlp,
                num_heads=mask.decoder_heads,
            ),
            transformer_dim=mask.prompt_width,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        )


def sam(config: CalicoConfig) -> Sam:
    return shaken(Sam(config))


def sam_hf(config: CalicoConfig) -> SamModel:
    mask = config.mask
    return shaken(
        SamModel(
            SamConfig(
                vision_config={
                    "hidden_size": mask.encoder.width,
                    "output_channels": mask.prompt_width,
                    "num_hidden_layers": mask.encoder.layers,
                    "num_attention_heads": mask.encoder.heads,
                    "image_size": mask.encoder.image_size,
                    "patch_size": mask.encoder.patch_size,
                    "mlp_dim": mask.encoder.mlp,
                    "window_size": mask.window,
                    "global_attn_indexes": list(mask.global_layers),
                    "num_pos_feats": mask.prompt_width // 2,
                },
                prompt_encoder_config={
                    "hidden_size": mask.prompt_width,
                    "image_size": mask.encoder.image_size,
                    "patch_size": mask.encoder.patch_size,
                },
                mask_decoder_config={
                    "hidden_size": mask.prompt_width,
                    "mlp_dim": mask.decoder_mlp,
                    "num_attention_heads": mask.decoder_heads,
                },
            )
        )
    )


def seg_projection(config: CalicoConfig) -> nn.Sequential:
    width = config.language.width
    return shaken(
        nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.mask.prompt_width)
        )
    )


# --- states in released names -----------------------------------------------------------------


def glamm_state(language: nn.Module, masks: nn.Module, projection: nn.Module) -> State:
    """GLaMM: Llama, SAM and the projection, with the tower and the region encoder we do not use."""
    return {
        **language.state_dict(),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        **{f"model.grounding_encoder.{k}": v for k, v in masks.state_dict().items()},
        "model.grounding_encoder.pixel_mean": torch.ones(3, 1, 1),
        "model.grounding_encoder.pixel_std": torch.ones(3, 1, 1),
        **{f"model.text_hidden_fcs.0.{k}": v for k, v in projection.state_dict().items()},
        "model.vision_tower.vision_tower.vision_model.post_layernorm.weight": torch.ones(5),
        "model.mm_projector.0.weight": torch.ones(4, 4),
        "model.mm_projector.2.bias": torch.ones(4),
        "model.region_encoder.flatten_linear.weight": torch.ones(4, 4),
    }


def lavis_qformer_state(model: InstructBlipForConditionalGeneration) -> State:
    """LAVIS's BERT names of a Q-Former held by transformers."""
    state = {}
    for name, tensor in part_of(model, "qformer").state_dict().items():
        name = name.replace("embeddings.layernorm", "embeddings.LayerNorm")
        name = re.sub(r"attention\.attention\.(query|key|value)", r"attention.self.\1", name)
        state[f"Qformer.bert.{name}"] = tensor
    return state | {
        "Qformer.bert.embeddings.position_ids": torch.arange(12)[None],
        "Qformer.cls.predictions.bias": torch.ones(20),
    }


def part_of(model: nn.Module, name: str) -> nn.Module:
    """A child of a model whose children may sit one level down."""
    inner = model.model if hasattr(model, "model") else model
    return inner.get_submodule(name)


def dino_hub_state(model: Dinov2WithRegistersModel) -> State:
    """The names of DINOv2's own repository, with queries, keys and values stacked."""
    old = model.state_dict()
    new = {
        "cls_token": old["embeddings.cls_token"],
        "mask_token": old["embeddings.mask_token"],
        "register_tokens": old["embeddings.register_tokens"],
        "pos_embed": old["embeddings.position_embeddings"],
        "patch_embed.proj.weight": old["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": old["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": old["layernorm.weight"],
        "norm.bias": old["layernorm.bias"],
    }
    for k in range(model.config.num_hidden_layers):
        theirs, block = f"encoder.layer.{k}.", f"blocks.{k}."
        for end in ("weight", "bias"):
            stacked = [old[f"{theirs}attention.{x}_proj.{end}"] for x in "qkv"]
            new[f"{block}attn.qkv.{end}"] = torch.cat(stacked)
            new[f"{block}attn.proj.{end}"] = old[f"{theirs}attention.o_proj.{end}"]
            for norm in ("norm1", "norm2"):
                new[f"{block}{norm}.{end}"] = old[f"{theirs}{norm}.{end}"]
            if model.config.use_swiglu_ffn:
                halves = [old[f"{theirs}mlp.{x}_proj.{end}"] for x in ("gate", "up")]
                new[f"{block}mlp.w12.{end}"] = torch.cat(halves)
                new[f"{block}mlp.w3.{end}"] = old[f"{theirs}mlp.down_proj.{end}"]
            else:
                for linear in ("fc1", "fc2"):
                    new[f"{block}mlp.{linear}.{end}"] = old[f"{theirs}mlp.{linear}.{end}"]
        for scale in ("1", "2"):
            new[f"{block}ls{scale}.gamma"] = old[f"{theirs}layer_scale{scale}.lambda1"]
    return new


# --- files -------------------------------------------------------------------------------------


def write_pickles(state: Mapping[str, Tensor], folder: Path, *, shards: int) -> None:
    """`pytorch_model-0000K-of-0000N.bin` with the index, as GLaMM is released."""
    _write_shards(state, folder, "pytorch_model", ".bin", shards)


def write_safetensors(state: Mapping[str, Tensor], folder: Path, *, shards: int) -> None:
    """`model-0000K-of-0000N.safetensors` with the index."""
    _write_shards(state, folder, "model", ".safetensors", shards)


def _write_shards(
    state: Mapping[str, Tensor], folder: Path, stem: str, suffix: str, shards: int
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weight_map = {}
    for k in range(shards):
        name = f"{stem}-{k + 1:05d}-of-{shards:05d}{suffix}"
        part = {key: value.clone() for key, value in list(state.items())[k::shards]}
        weight_map |= dict.fromkeys(part, name)
        if suffix == ".bin":
            torch.save(part, folder / name)
        else:
            save_file(part, folder / name, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))
