"""Loaded releases: precision, streaming, fingerprints, and that they answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from calico_model import prompts
from calico_model.data.collate import Turn, collate_prompts, collate_turns
from calico_model.inference.images import to_pixels
from calico_model.loading.checkpoints import fingerprint, is_released
from calico_model.loading.placement import Placement, put
from calico_model.loading.precision import Precision
from calico_model.loading.quantisation import Int8Linear, quantise
from calico_model.loading.released import assembly
from calico_model.loading.released.assembly import load_released, released_fingerprint
from calico_model.loading.released.llama_tokenizer import read_llama_tokenizer
from calico_model.modeling.model import Calico
from calico_model.predictor import load_predictor
from calico_model.types import ImageGroup
from tests.unit.loading.released import writers
from tests.unit.loading.released.comparing import check_masks, copy_of, load, same
from tests.unit.loading.released.conftest import Merged, Parts, write_merged
from tests.unit.loading.released.writers import base_config


def test_the_old_pickle_format_is_read_too(parts: Parts, tmp_path: Path) -> None:
    folder = copy_of(parts.folder, tmp_path)
    shard = folder / "GLaMM-GranD-Pretrained" / "pytorch_model-00001-of-00002.bin"
    state = torch.load(shard, weights_only=True)
    shard.unlink()
    torch.save(state, shard, _use_new_zipfile_serialization=False)
    check_masks(load(folder).model, parts)


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.INT8])
def test_each_part_goes_where_it_is_told(
    parts: Parts, precision: Precision, images: list[np.ndarray]
) -> None:
    placement = Placement(precision)
    model = load_released(parts.folder, base=base_config(), placement=placement).model
    for name, parameter in model.named_parameters():
        expected = torch.float32 if name.startswith("mask_decoder.") else torch.bfloat16
        assert parameter.dtype == expected, name
    projections = [m for m in model.language.model.modules() if isinstance(m, Int8Linear)]
    assert len(projections) == (0 if precision is Precision.BF16 else 4 * 7)
    rotary = model.language.model.rotary_emb.inv_freq
    assert torch.equal(rotary, parts.language.model.rotary_emb.inv_freq)
    features = model.encode(to_pixels(images, model.config))
    assert model.image_rows(features).isfinite().all()


def test_streaming_into_eight_bits_equals_compressing_afterwards(parts: Parts) -> None:
    streamed = load_released(
        parts.folder, base=base_config(), placement=Placement(Precision.INT8)
    ).model
    whole = load_released(parts.folder, base=base_config(), placement=Placement(Precision.BF16))
    quantise(whole.model, Precision.INT8)
    same(streamed, whole.model.state_dict())
    before = streamed.state_dict()
    same(quantise(streamed, Precision.INT8), before)


def test_what_puts_a_tensor_sees_each_exactly_once(parts: Parts) -> None:
    seen: list[str] = []

    def watch(model: Calico, name: str, tensor: Tensor, placement: Placement) -> None:
        assert model.get_submodule(name.rpartition(".")[0]) is not None
        seen.append(name)
        put(model, name, tensor, placement)

    model = load_released(parts.folder, base=base_config(), put=watch).model
    assert sorted(seen) == sorted(model.state_dict())


def test_the_same_weights_have_the_same_fingerprint_however_they_are_cut(
    merged: Merged, tmp_path: Path
) -> None:
    base = base_config()
    whole = write_merged(merged.state, tmp_path / "whole")
    writers.write_safetensors(merged.state, tmp_path / "cut", shards=3)
    writers.write_llama_tokenizer(tmp_path / "cut", tags=True)
    first = released_fingerprint(whole, base)
    assert released_fingerprint(tmp_path / "cut", base) == first
    state = dict(merged.state)
    state["model.query_tokens"] = state["model.query_tokens"] + 1
    assert released_fingerprint(write_merged(state, tmp_path / "other"), base) != first


def test_weights_released_by_others_are_known_as_such(
    parts: Parts, merged: Merged, tmp_path: Path
) -> None:
    assert is_released(parts.folder)
    assert is_released(write_merged(merged.state, tmp_path / "CALICO"))
    assert not is_released(tmp_path / "nothing")


def test_a_folder_of_parts_predicts(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, images: list
) -> None:
    """`--weights FOLDER`, with the small sizes in place of the 7B ones."""
    monkeypatch.setattr(assembly, "full", base_config)
    predictor = load_predictor(parts.folder)
    assert predictor.version == f"calico-micro-{fingerprint(parts.folder)[:8]}"
    assert len(predictor.predict(ImageGroup(tuple(images), ("a", "b"))).answers) == 3


def test_conversations_with_llama_begin_with_its_start_token(parts: Parts) -> None:
    folder = parts.folder / "GLaMM-GranD-Pretrained"
    tokenizer = read_llama_tokenizer(folder, folder.name).tokenizer
    turn = Turn(prompts.conversation("leg", 2), "the leg </s>", (0, 1))
    for layout in (
        collate_prompts([turn], tokenizer, 4),
        collate_turns([turn], tokenizer, 4).conversations,
    ):
        ids = layout.input_ids[0].tolist()
        assert ids[0] == tokenizer.start == 1
        assert ids.count(1) == 1
        assert ids.count(tokenizer.image) == 8
