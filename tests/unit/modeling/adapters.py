"""Adapters of a model as they are, for tests that write and compare them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from calico_model.modeling.adapter import AdapterScope, adapter_names, write_adapter
from calico_model.modeling.model import Calico


def adapter_state(model: Calico) -> dict[str, Tensor]:
    """Detached float32 copies of the adapter's tensors."""
    parameters = dict(model.named_parameters())
    names = adapter_names(model, AdapterScope())
    return {name: parameters[name].detach().float().cpu().clone() for name in names}


def save_adapter(model: Calico, folder: Path, *, base: str) -> str:
    """Writes the adapter that a model holds."""
    return write_adapter(
        adapter_state(model), folder, config=model.config, base=base, scope=AdapterScope()
    )
