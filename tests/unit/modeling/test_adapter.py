"""Adapter folders: written whole, and only put into the model they were made for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from calico_model.errors import CheckpointError
from calico_model.modeling.adapter import (
    load_adapter,
)
from calico_model.modeling.model import Calico
from tests.unit.modeling.adapters import adapter_state, save_adapter


@pytest.fixture
def folder(model: Calico, tmp_path: Path) -> Path:
    save_adapter(model, tmp_path / "adapter", base="abc")
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("key", "value"), [("r", 8), ("lora_alpha", 32), ("target_modules", ["q_proj"]), ("r", None)]
)
def test_another_lora_is_refused(folder: Path, model: Calico, key: str, value: object) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {key: value}))
    before = adapter_state(model)
    with pytest.raises(CheckpointError, match=f"adapter_config.json: {key}: expected"):
        load_adapter(model, folder, base="abc")
    assert all(
        torch.equal(a, b)
        for a, b in zip(before.values(), adapter_state(model).values(), strict=True)
    )


def test_an_adapter_of_other_weights_is_refused(folder: Path, model: Calico) -> None:
    with pytest.raises(CheckpointError, match="base: expected xyz, got abc"):
        load_adapter(model, folder, base="xyz")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [_cut, Path.unlink, lambda p: p.write_bytes(b"")])
def test_a_damaged_file_is_refused(
    folder: Path, model: Calico, damage: Callable[[Path], object]
) -> None:
    damage(folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="not a readable adapter"):
        load_adapter(model, folder, base="abc")


def test_a_written_adapter_replaces_the_old_one_alone(folder: Path, model: Calico) -> None:
    (folder / "stale").touch()
    save_adapter(model, folder, base="new")
    names = {path.name for path in folder.iterdir()}
    assert names == {"adapter_model.safetensors", "adapter_config.json"}
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"]
    assert (folder / "adapter_model.safetensors").stat().st_mode & 0o444 == 0o444
