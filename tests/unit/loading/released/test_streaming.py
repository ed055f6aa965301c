"""Loading holds the model and one tensor, never two, never a parent."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor

from calico_model.loading.placement import Placement, put
from calico_model.loading.released import plan as planning
from calico_model.loading.released.assembly import load_released
from calico_model.loading.released.shards import ReleasedTensors
from calico_model.modeling.model import Calico
from tests.unit.loading.released.conftest import Merged, Parts, write_merged
from tests.unit.loading.released.writers import base_config


def test_one_released_tensor_is_alive_at_a_time(merged: Merged, tmp_path: Path) -> None:
    folder = write_merged(merged.state, tmp_path / "CALICO")
    alive: list[weakref.ref[Tensor]] = []

    def watch(model: Calico, name: str, tensor: Tensor, placement: Placement) -> None:
        assert not any(one() is not None for one in alive), name
        alive.append(weakref.ref(tensor))
        put(model, name, tensor.half(), placement)  # as when the placed one is another

    model = load_released(folder, base=base_config(), put=watch).model
    assert len(alive) > 200
    assert not any(p.is_meta for p in model.parameters())


def test_the_model_owns_its_memory(merged: Merged, tmp_path: Path) -> None:
    """Changing the file afterwards changes nothing."""
    folder = write_merged(merged.state, tmp_path / "CALICO")
    model = load_released(folder, base=base_config()).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 4)
        file.write(b"\xff" * (path.stat().st_size // 2))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_parents_are_neither_read_nor_built(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of InstructBLIP's language model and GLaMM's towers not one tensor is read."""
    read: list[str] = []
    original = ReleasedTensors.read

    def watch(self: ReleasedTensors, key: str) -> Tensor:
        read.append(key)
        return original(self, key)

    monkeypatch.setattr(ReleasedTensors, "read", watch)
    load_released(parts.folder, base=base_config())
    unwanted = ("language_model.", "model.vision_tower.", "model.mm_projector.", "model.region")
    assert not [key for key in read if key.startswith(unwanted)]
    assert len(read) == len(set(read))


def test_a_whole_plan_is_made_without_weights(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes, names and report come from headers: what a memory plan may ask for first."""
    monkeypatch.delattr(ReleasedTensors, "read")
    plan = planning.make_plan(parts.folder, base_config())
    assert plan.config.eva == base_config().eva
