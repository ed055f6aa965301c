"""The dense head's body learns on drawn scenes, nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from calico_model.checkpoints import load_model, save_model
from calico_model.data.pool import fill_pool
from calico_model.modeling.adapter import base_state
from calico_model.tokenizer import Tokenizer
from calico_model.training import assist_lessons
from calico_model.training.dense_recipe import DenseRecipe
from calico_model.training.dense_training import train_dense
from tests.unit.conftest import build_micro


def test_only_the_head_learns_and_a_stopped_run_goes_on(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assist_lessons, "GROUPS_PER_CHUNK", 4)
    pool, weights = tmp_path / "pool", tmp_path / "weights"
    fill_pool(pool, scenes=8, seed=4, size_px=64, groups_per_chunk=4)
    save_model(build_micro(tokenizer.size), tokenizer, weights, dtype=torch.float32)
    recipe = DenseRecipe(chunks=1, steps=3, images=4, checkpoint_every=2)
    whole = train_dense(recipe, weights, pool, tmp_path / "whole")
    asked = iter([False, False, True])
    train_dense(recipe, weights, pool, tmp_path / "parts", stop=lambda: next(asked))
    parts = train_dense(recipe, weights, pool, tmp_path / "parts")
    before = base_state(load_model(weights)[0])
    one, other = base_state(load_model(whole)[0]), base_state(load_model(parts)[0])
    assert {name.split(".")[0] for name in one.keys() - before.keys()} == {"dense_head"}
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    for name, tensor in before.items():
        assert torch.equal(tensor.to(torch.bfloat16), one[name].to(torch.bfloat16)), name
    assert one["dense_head.first"].any()
    assert not torch.equal(one["dense_head.mean_0"], torch.zeros_like(one["dense_head.mean_0"]))
