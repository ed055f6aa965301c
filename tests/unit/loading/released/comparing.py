"""Loads small releases, and compares loaded modules with the states they were made of."""

from __future__ import annotations

from pathlib import Path

import torch

from calico_model.config import CalicoConfig
from calico_model.loading.released.assembly import Released, load_released
from calico_model.modeling.adapter import base_state
from calico_model.modeling.model import Calico
from tests.unit.loading.released.conftest import Parts
from tests.unit.loading.released.writers import State, base_config


def load(folder: Path, base: CalicoConfig | None = None) -> Released:
    return load_released(folder, base=base or base_config())


def same(ours: torch.nn.Module, theirs: State) -> None:
    own = ours.state_dict()
    assert set(own) == set(theirs)
    for name, tensor in theirs.items():
        assert torch.equal(own[name], tensor), name


def language_state(model: Calico) -> State:
    own = base_state(model)
    return {k.removeprefix("language."): v for k, v in own.items() if k.startswith("language.")}


def query_path(state: State) -> State:
    """A Q-Former without its text path."""
    kept = {}
    for name, tensor in state.items():
        if name.startswith("embeddings.layernorm"):
            kept[name.removeprefix("embeddings.")] = tensor
        elif not name.startswith("embeddings.") and ".intermediate." not in name:
            layer_output = name.split(".")[3] == "output"
            if not layer_output:
                kept[name] = tensor
    return kept


def sam_names(model: torch.nn.Module, head: str, tail: str = "") -> State:
    return {
        tail + k.removeprefix(head): v for k, v in model.state_dict().items() if k.startswith(head)
    }


def check_masks(model: Calico, parts: Parts) -> None:
    same(model.sam_encoder, sam_names(parts.masks, "image_encoder."))
    same(
        model.mask_decoder,
        sam_names(parts.masks, "prompt_encoder.", "prompt_encoder.")
        | sam_names(parts.masks, "mask_decoder.", "mask_decoder."),
    )


def with_image_row(theirs: State, rows: int) -> State:
    """Embedding and head with the rows that new tokens get: the mean of the others."""
    grown = dict(theirs)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        new = rows - len(theirs[name])
        grown[name] = torch.cat((theirs[name], theirs[name].mean(0, keepdim=True).expand(new, -1)))
    return grown


def inner(blip: torch.nn.Module) -> torch.nn.Module:
    return blip.model if hasattr(blip, "model") else blip


def copy_of(folder: Path, tmp_path: Path) -> Path:
    """The same files, linked."""
    for path in folder.rglob("*"):
        if path.is_file():
            target = tmp_path / folder.name / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(path)
    return tmp_path / folder.name
