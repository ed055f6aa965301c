from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from calico_model.config import CalicoConfig
from calico_model.errors import CalicoError, CheckpointError, InvalidConfigError
from calico_model.loading.checkpoints import fingerprint, load_model, save_model
from calico_model.modeling.adapter import base_state
from calico_model.modeling.model import Calico
from calico_model.presets import full, tiny
from calico_model.tokenizer import Tokenizer


@pytest.fixture
def folder(model: Calico, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    save_model(model, tokenizer, tmp_path / "weights", dtype=torch.float32)
    return tmp_path / "weights"


def test_saved_weights_come_back_bit_for_bit(model: Calico, folder: Path) -> None:
    again, _ = load_model(folder)
    for name, tensor in base_state(model).items():
        assert torch.equal(base_state(again)[name], tensor), name


def test_another_user_may_read_the_weights(folder: Path) -> None:
    assert all(path.stat().st_mode & 0o044 for path in folder.iterdir())


def test_saving_again_keeps_the_model_card(
    model: Calico, tokenizer: Tokenizer, folder: Path
) -> None:
    (folder / "MODEL_CARD.md").write_text("honest")
    save_model(model, tokenizer, folder, dtype=torch.bfloat16)
    assert (folder / "MODEL_CARD.md").read_text() == "honest"
    assert load_model(folder)[0].config == model.config


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_model(folder)


@pytest.mark.parametrize("keep", [0, 7, 100, 5000])
def test_truncated_weights_are_refused(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="model.safetensors"):
        load_model(folder)


def test_a_missing_an_extra_a_misshapen_and_a_broken_tensor_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    good = load_file(path)
    name = "query_tokens"
    for change, message in (
        ({name: None}, f"missing {name}"),
        ({"stranger": torch.ones(1)}, "unexpected stranger"),
        ({name: torch.ones(2, 2)}, f"{name}: expected shape"),
        ({name: torch.full_like(good[name], float("nan"))}, f"{name}: holds values"),
    ):
        state = {k: v for k, v in (good | change).items() if v is not None}
        save_file(state, path)
        with pytest.raises(CheckpointError, match=message):
            load_model(folder)


def test_the_fingerprint_follows_the_weights(model: Calico, folder: Path) -> None:
    first = fingerprint(folder)
    state = load_file(folder / "model.safetensors")
    state["query_tokens"][0, 0] += 1
    save_file(state, folder / "model.safetensors")
    assert fingerprint(folder) != first


@pytest.mark.parametrize("config", [tiny(600), full()])
def test_configurations_survive_json(config: CalicoConfig, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(config.to_json())
    assert CalicoConfig.from_file(path) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "colour"),
        ({"cams": 99}, "cams"),
        ({"eva": 3}, "eva"),
        ({"cem_heads": 5}, "cem_heads"),
        ({"cem_heads": 0}, "cem_heads"),
        ({"name": None}, "name: expected str"),
        ({"eva": None}, "eva: expected an object"),
        ({"image_size": "128"}, "image_size: expected int"),
        ({"image_size": True}, "image_size: expected int"),
        ({"trunk": {"widths": 5}}, "trunk: widths: expected a list"),
        ({"lora": {"targets": [1]}}, r"lora: targets\[0\]: expected str"),
        ({"lora": {"dropout": "no"}}, "lora: dropout: expected float"),
    ],
)
def test_a_wrong_configuration_names_the_field(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(tiny(600).to_json()) | change))
    with pytest.raises(InvalidConfigError, match=message):
        CalicoConfig.from_file(path)


def test_a_configuration_that_is_not_json_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(CalicoError, match=r"config\.json"):
        CalicoConfig.from_file(tmp_path / "config.json")
