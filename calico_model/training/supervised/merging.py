"""Makes one model folder of weights and an adapter, for who wants to ship a single file."""

from __future__ import annotations

from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer

from calico_model.loading.checkpoints import fingerprint, load_model, save_model
from calico_model.modeling.adapter import load_adapter
from calico_model.modeling.model import Calico


def merge_adapter(weights: Path, adapter: Path, folder: Path) -> None:
    """Writes the weights with an adapter folded in.

    Args:
        weights: model folder the adapter was trained on.
        adapter: adapter folder.
        folder: model folder to write, in bfloat16 on disk; replaced when it exists.

    Raises:
        CheckpointError: weights or adapter are damaged or do not belong together.
    """
    model, tokenizer = load_model(weights)
    load_adapter(model, adapter, base=fingerprint(weights))
    fold_lora(model)
    save_model(model, tokenizer, folder, dtype=torch.bfloat16)


def fold_lora(model: Calico) -> None:
    """Adds every LoRA product to its matrix; the model then computes the same without LoRA."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.merge()
