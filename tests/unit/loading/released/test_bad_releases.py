"""Damaged, partial and foreign releases: one message that names file and key, nothing loaded."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from calico_model.errors import CheckpointError, InvalidConfigError
from calico_model.loading.checkpoints import load_model
from calico_model.loading.placement import Placement
from calico_model.loading.released.assembly import load_released
from calico_model.modeling.model import Calico
from calico_model.presets import tiny
from tests.unit.loading.released import writers
from tests.unit.loading.released.conftest import Merged, Parts, write_merged
from tests.unit.loading.released.writers import State, base_config

GLAMM, BLIP, DINO = (
    "GLaMM-GranD-Pretrained",
    "instructblip-vicuna-7b",
    "dinov2-with-registers-base",
)
SHARD = "pytorch_model-00001-of-00002.bin"


@pytest.fixture
def folder(parts: Parts, tmp_path: Path) -> Path:
    return Path(shutil.copytree(parts.folder, tmp_path / "parts"))


def refuses(folder: Path, message: str) -> None:
    """The error says so, before a single tensor was put anywhere."""
    put: list[str] = []

    def watch(model: Calico, name: str, tensor: torch.Tensor, placement: Placement) -> None:
        put.append(name)

    with pytest.raises(CheckpointError, match=message):
        load_released(folder, base=base_config(), put=watch)
    assert put == []


class Bomb:
    """Pickles into a call; loading it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(folder: Path, as_zip: bool) -> None:
    path = folder / "sam_vit_h_4b8939.pth"
    trap = folder / "ran"
    torch.save({"weights": Bomb(trap)}, path, _use_new_zipfile_serialization=as_zip)
    refuses(
        folder, r"sam_vit_h_4b8939\.pth: refused: expected tensors only, found a call of \S+mkdir"
    )
    assert not trap.exists()


@pytest.mark.parametrize("keep", [0, 10, 400, 0.5, 0.99])
def test_a_truncated_pickle_is_named(folder: Path, keep: float) -> None:
    cut(folder / GLAMM / SHARD, keep)
    refuses(folder, rf"{GLAMM}/{SHARD}: ")


@pytest.mark.parametrize("keep", [0, 7, 100, 0.5, 0.99])
def test_a_truncated_safetensors_file_is_named(folder: Path, keep: float) -> None:
    cut(folder / DINO / "model.safetensors", keep)
    refuses(folder, rf"{DINO}/model\.safetensors: not a readable safetensors file")


def cut(path: Path, keep: float) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: keep if isinstance(keep, int) else int(len(raw) * keep)])


def test_a_shard_the_index_names_must_be_there_when_it_is_needed(folder: Path) -> None:
    (folder / GLAMM / SHARD).unlink()
    refuses(folder, rf"{GLAMM}/pytorch_model\.bin\.index\.json: \S+ is in {SHARD}, which is miss")


def test_a_shard_nothing_is_needed_of_may_be_missing(folder: Path) -> None:
    index = next((folder / BLIP).glob("*.index.json"))
    listed = json.loads(index.read_text())
    spare = next(k for k in listed["weight_map"] if k.startswith("language_model."))
    listed["weight_map"][spare] = "model-00099-of-00099.safetensors"
    index.write_text(json.dumps(listed))
    assert isinstance(load_released(folder, base=base_config()).model, Calico)


def test_an_index_that_is_wrong_about_a_shard_is_named(folder: Path) -> None:
    index = folder / GLAMM / "pytorch_model.bin.index.json"
    listed = json.loads(index.read_text())
    listed["weight_map"]["model.layers.0.mlp.up_proj.weight"] = next(
        v
        for v in listed["weight_map"].values()
        if v != listed["weight_map"]["model.layers.0.mlp.up_proj.weight"]
    )
    index.write_text(json.dumps(listed))
    refuses(folder, r"model\.layers\.0\.mlp\.up_proj\.weight: not in this file")


@pytest.mark.parametrize("content", ["", "[]", '{"weight_map": 3}', "{}"])
def test_a_damaged_index_is_named(folder: Path, content: str) -> None:
    (folder / GLAMM / "pytorch_model.bin.index.json").write_text(content)
    refuses(folder, r"pytorch_model\.bin\.index\.json: expected an object with a weight_map")


def test_numbered_shards_without_index_must_be_complete(folder: Path) -> None:
    (folder / GLAMM / "pytorch_model.bin.index.json").unlink()
    assert isinstance(load_released(folder, base=base_config()).model, Calico)
    (folder / GLAMM / SHARD).unlink()
    refuses(folder, rf"{GLAMM}/{SHARD}: missing")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (GLAMM, "no weights of sam_encoder: expected GLaMM, SAM or PLAN-Lab/CALICO; found"),
        (BLIP, "no weights of eva: expected InstructBLIP-Vicuna-7B"),
        (DINO, "no weights of dino: expected DINOv2 with registers"),
    ],
)
def test_a_part_nobody_gives_is_named(folder: Path, part: str, message: str) -> None:
    shutil.rmtree(folder / part)
    refuses(folder, message)


def test_a_glamm_without_its_projection_is_not_taken_for_a_vicuna(folder: Path) -> None:
    index = folder / GLAMM / "pytorch_model.bin.index.json"
    listed = json.loads(index.read_text())
    kept = {k: v for k, v in listed["weight_map"].items() if "text_hidden_fcs" not in k}
    index.write_text(json.dumps({"weight_map": kept}))
    refuses(folder, "no weights of segmentation_projection")


def test_two_sources_of_a_kind_are_one_too_many(folder: Path) -> None:
    shutil.copytree(folder / GLAMM, folder / "GLaMM-FullScope")
    refuses(folder, "is in parts/GLaMM-FullScope and parts/GLaMM-GranD-Pretrained: expected one")


def test_foreign_weights_are_told_apart_from_none(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CheckpointError, match=r"empty/config\.json: missing"):
        load_model(empty)
    save_file({"bert.pooler.weight": torch.ones(2)}, empty / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"empty/config\.json: missing"):
        load_model(empty)
    (empty / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="no weights of eva: .*found nothing"):
        load_model(empty)


def _without(name: str) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in state.items() if k != name}


def _with(name: str, tensor: torch.Tensor) -> Callable[[State], State]:
    return lambda state: state | {name: tensor}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _with("model.layers.1.mlp.up_proj.weight", torch.ones(127, 64)),
            r"CALICO/model\.safetensors: model\.layers\.1\.mlp\.up_proj\.weight: expected shape "
            r"\(128, 64\) for language\.model\.layers\.1\.mlp\.up_proj\.weight, got \(127, 64\)",
        ),
        (
            _with("model.query_tokens", torch.ones(1, 4, 31)),
            r"query_tokens: width 31 is not made of heads of 16",
        ),
        (
            _with("model.mm_projector.weight", torch.ones(64, 33)),
            r"model\.mm_projector\.weight: expected shape \(64, 32\) for image_projection\.weight",
        ),
        (
            _with("model.extraction_layer.k_proj_weight", torch.ones(48, 99)),
            r"extraction_layer\.k_proj_weight: expected shape \(48, 24\)",
        ),
        (
            _with("model.dino_model.blocks.0.attn.qkv.bias", torch.ones(71)),
            r"dino_model\.blocks\.0\.attn\.qkv\.bias: expected 3 stacked blocks, got shape \(71,\)",
        ),
        (
            _with("model.grounding_encoder.image_encoder.pos_embed", torch.ones(8, 8, 32)),
            r"sam_encoder\.pos_embed: expected 4 dimensions",
        ),
        (
            _with("model.visual_encoder.pos_embed", torch.ones(1, 16, 48)),
            "eva.embeddings.position_embedding: expected a square grid and one token, got 16 rows",
        ),
        (
            _without("model.layers.2.input_layernorm.weight"),
            r"CALICO: language\.model\.layers\.2\.input_layernorm\.weight of language is missing",
        ),
        (
            _without("model.visual_encoder.blocks.1.attn.v_bias"),
            r"blocks\.1\.attn\.q_bias: its counterpart for eva\..*qkv\.bias is missing",
        ),
        (
            _without("model.extraction_layer.out_proj.bias"),
            r"cem\.attention\.out_proj\.bias of cem is missing",
        ),
        (
            _without("model.adaptive_layers.1.weight"),
            r"cams\.1\.adaptation\.weight of cams is missing",
        ),
        (
            _without(
                "model.grounding_encoder.prompt_encoder.pe_layer"
                ".positional_encoding_gaussian_matrix"
            ),
            r"gaussian_matrix of mask_decoder is missing",
        ),
        (
            _with("model.extraction_layer.gate", torch.ones(1)),
            r"CALICO/model\.safetensors: model\.extraction_layer\.gate: unknown name in a part",
        ),
        (
            _with("model.grounding_encoder.image_encoder.stem.weight", torch.ones(1)),
            r"image_encoder\.stem\.weight: unexpected: CALICO has no sam_encoder\.stem\.weight",
        ),
        (
            _with("model.mm_projector.0.weight", torch.ones(64, 32)),
            r"mm_projector.*: the same tensor as",
        ),
        (
            _with("model.adaptive_layers.7.weight", torch.ones(32, 64)),
            r"CAMs at LLM layers \(0, 1, 7\), expected \(1, 2, 3\)",
        ),
    ],
)
def test_a_release_that_does_not_fit_names_file_and_key(
    merged: Merged, tmp_path: Path, change: Callable[[State], State], message: str
) -> None:
    refuses(write_merged(change(merged.state), tmp_path / "CALICO"), message)


def test_cams_at_other_layers_are_refused(merged: Merged, tmp_path: Path) -> None:
    state = {}
    for name, tensor in merged.state.items():
        state[
            name.replace("ve_layers.1.", "ve_layers.3.").replace("on_layers.1.", "on_layers.3.")
        ] = tensor
    refuses(
        write_merged(state, tmp_path / "CALICO"),
        r"_layers\.0\.\w+: CAMs at LLM layers \(0, 3\), expected \(2, 3\)",
    )


def test_a_value_that_is_not_finite_is_named(folder: Path) -> None:
    path = folder / DINO / "model.safetensors"
    state = load_file(path)
    state["layernorm.bias"][3] = float("inf")
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=rf"{DINO}/model\.safetensors: layernorm\.bias: holds"
    ):
        load_released(folder, base=base_config())


def test_names_of_no_known_part_are_reported_and_not_fatal(merged: Merged, tmp_path: Path) -> None:
    state = merged.state | {"model.tracker.weight": torch.ones(1)}
    report = load_released(write_merged(state, tmp_path / "CALICO"), base=base_config()).report
    assert report.unexpected == ("CALICO/model.safetensors: model.tracker.weight",)


def test_what_only_pre_training_used_may_be_absent(merged: Merged, tmp_path: Path) -> None:
    state = _without("model.dino_model.mask_token")(merged.state)
    released = load_released(write_merged(state, tmp_path / "CALICO"), base=base_config())
    assert released.report.absent == ("dino.embeddings.mask_token",)
    assert not released.model.dino.embeddings.mask_token.any()


def test_a_model_with_a_trunk_has_no_released_parts(folder: Path) -> None:
    with pytest.raises(InvalidConfigError, match="trunk"):
        load_released(folder, base=tiny(600))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.model", b"", "tokenizer.model: not a byte-pair model"),
        ("tokenizer.model", b"\x0a\xff", "tokenizer.model: not a byte-pair model"),
        ("tokenizer.model", writers.sentencepiece_model(model_type=1), "not a byte-pair model"),
        ("tokenizer.json", b"{", "tokenizer.json: not a tokenizer file"),
        ("tokenizer.json", b'{"added_tokens": [], "model": 3}', "tokenizer.json: not a tokenizer"),
        ("added_tokens.json", b"[1]", "added_tokens.json: not a list of added tokens"),
        ("added_tokens.json", b'{"[SEG]": 5}', r"added token '\[SEG\]': expected id 5"),
    ],
)
def test_a_damaged_tokenizer_is_named(
    folder: Path, name: str, content: bytes, message: str
) -> None:
    (folder / GLAMM / name).write_bytes(content)
    refuses(folder, message)


def test_a_language_model_without_tokenizer_is_refused(folder: Path) -> None:
    (folder / GLAMM / "tokenizer.model").unlink()
    refuses(folder, rf"{GLAMM}: expected tokenizer\.json or tokenizer\.model")


def test_pickles_of_anything_but_tables_are_refused(folder: Path) -> None:
    torch.save([torch.ones(1)], folder / "sam_vit_h.pth")
    refuses(folder, r"sam_vit_h\.pth: expected a table of tensors, got list")
