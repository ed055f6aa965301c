"""One folder of small public parts and one merged release, made once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import Dinov2WithRegistersModel, InstructBlipForConditionalGeneration

from calico_model.config import CalicoConfig
from tests.unit.loading.released import writers
from tests.unit.loading.released.lavis import Eva
from tests.unit.loading.released.writers import State


@dataclass(frozen=True)
class Parts:
    """Reference modules and the folder they were written to."""

    folder: Path
    language: nn.Module
    masks: nn.Module
    projection: nn.Module
    blip: InstructBlipForConditionalGeneration
    dino: Dinov2WithRegistersModel


def reference_parts(config: CalicoConfig, folder: Path) -> Parts:
    """Modules of the releasing libraries in the sizes of `config`."""
    return Parts(
        folder,
        writers.llama(config.language.vocab_size, config),
        writers.sam(config),
        writers.seg_projection(config),
        writers.instructblip(config),
        writers.dino(config),
    )


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """GLaMM (.bin shards), InstructBLIP and DINOv2 (as transformers save), as `fetch` lays out."""
    torch.manual_seed(11)
    folder = tmp_path_factory.mktemp("released") / "calico-7b-parts"
    made = reference_parts(writers.base_config(), folder)
    state = writers.glamm_state(made.language, made.masks, made.projection)
    writers.write_pickles(state, folder / "GLaMM-GranD-Pretrained", shards=2)
    writers.write_llama_tokenizer(folder / "GLaMM-GranD-Pretrained", tags=True)
    made.blip.save_pretrained(folder / "instructblip-vicuna-7b", max_shard_size="100KB")
    made.dino.save_pretrained(folder / "dinov2-with-registers-base")
    return made


@dataclass(frozen=True)
class Merged:
    """A merged CALICO: its tensors in released names, and the modules behind some of them."""

    state: State
    eva: Eva
    parts: Parts


@pytest.fixture(scope="session")
def merged(parts: Parts) -> Merged:
    """A small merged release."""
    torch.manual_seed(12)
    return merge(writers.base_config(), parts)


def merge(config: CalicoConfig, parts: Parts) -> Merged:
    """`PLAN-Lab/CALICO`: LAVIS names, CAMs and a CEM, LoRA already merged."""
    eva = writers.shaken(Eva(config.eva))
    width, narrow = config.language.width, config.qformer.width
    attention = nn.MultiheadAttention(
        config.eva.width,
        config.cem_heads,
        kdim=config.dino.width,
        vdim=config.dino.width,
        batch_first=True,
    )
    own: State = {"query_tokens": torch.randn(1, config.qformer.queries, narrow)}
    for name, module in (
        ("mm_projector", nn.Linear(narrow, width)),
        ("adaptive_layers", nn.ModuleList(nn.Linear(width, narrow) for _ in range(2))),
        ("reintegration_layers", nn.ModuleList(nn.Linear(narrow, width) for _ in range(2))),
        ("extraction_layer", attention),
    ):
        own |= {f"{name}.{k}": v for k, v in writers.shaken(module).state_dict().items()}
    own |= dict(eva.state_dict())
    own |= writers.lavis_qformer_state(parts.blip)
    own |= {f"dino_model.{k}": v for k, v in writers.dino_hub_state(parts.dino).items()}
    state = writers.glamm_state(parts.language, parts.masks, parts.projection)
    for name in [n for n in state if "mm_projector" in n or "region_encoder" in n]:
        del state[name]
    state |= {f"model.{k}": v for k, v in own.items()}
    return Merged(state, eva, parts)


def write_merged(state: State, folder: Path) -> Path:
    """One safetensors file with the tokenizer beside it."""
    writers.write_llama_tokenizer(folder, tags=True)
    save_file({k: v.clone().contiguous() for k, v in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "calico"}')
    return folder
