"""What tests of `calico fetch` share: a hub with the public parts, and runs of the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save
from typer.testing import CliRunner, Result

from backend.cli import command_tree
from backend.cli.carried import RECEIPT
from backend.errors import FetchError

GLAMM, BLIP = "MBZUAI/GLaMM-GranD-Pretrained", "Salesforce/instructblip-vicuna-7b"
DINO, SAM = "facebook/dinov2-with-registers-base", "facebook/sam-vit-huge"
RELEASE = "PLAN-Lab/CALICO"
INDEX = "model.safetensors.index.json"


def shard(seed: int, size: int = 5000) -> bytes:
    return save({"w": np.random.default_rng(seed).random(size, dtype=np.float32)})


def index(shard_of: dict[str, str]) -> bytes:
    return json.dumps({"metadata": {}, "weight_map": shard_of}).encode()


GLAMM_KEYS = {
    "lm_head.weight": "model-00001-of-00003.safetensors",
    "model.layers.0.self_attn.q_proj.weight": "model-00001-of-00003.safetensors",
    "model.embed_tokens.weight": "model-00001-of-00003.safetensors",
    "model.text_hidden_fcs.0.0.weight": "model-00002-of-00003.safetensors",
    "model.grounding_encoder.mask_decoder.iou_token.weight": "model-00002-of-00003.safetensors",
    "model.grounding_encoder.image_encoder.pos_embed": "model-00002-of-00003.safetensors",
    "model.mm_projector.weight": "model-00003-of-00003.safetensors",
}
BLIP_KEYS = {
    "query_tokens": "model-00001-of-00004.safetensors",
    "vision_model.encoder.layers.0.layer_norm1.weight": "model-00001-of-00004.safetensors",
    "qformer.encoder.layer.0.attention.attention.query.weight": "model-00001-of-00004.safetensors",
    "language_model.lm_head.weight": "model-00002-of-00004.safetensors",
    "language_model.model.layers.3.mlp.up_proj.weight": "model-00003-of-00004.safetensors",
    "language_projection.weight": "model-00004-of-00004.safetensors",
}


def repository(keys: dict[str, str], seed: int, **files: bytes) -> dict[str, bytes]:
    shards = {name: shard(seed + k) for k, name in enumerate(sorted(set(keys.values())))}
    return {"config.json": b"{}", INDEX: index(keys), **shards, **files}


def run(*arguments: object) -> Result:
    words = ["fetch", *map(str, arguments)]
    return CliRunner(env={"COLUMNS": "200"}).invoke(command_tree(words), words)


def fetched(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


EXPECTED = {
    RECEIPT,
    *(f"{GLAMM}/{name}" for name in ("config.json", INDEX, "tokenizer.model", "added_tokens.json")),
    f"{GLAMM}/model-00001-of-00003.safetensors",
    f"{GLAMM}/model-00002-of-00003.safetensors",
    f"{BLIP}/config.json",
    f"{BLIP}/{INDEX}",
    f"{BLIP}/model-00001-of-00004.safetensors",
    f"{BLIP}/model-00004-of-00004.safetensors",
    f"{DINO}/config.json",
    f"{DINO}/model.safetensors",
}


def failure(*arguments: object) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, FetchError), result.exception
    return str(result.exception)
