"""Fitting the region head: everything else stays as it is; equal seeds give equal heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from calico_model.data.pool import fill_pool
from calico_model.data.synthetic import SceneSplit, Stream, draw_group, group_rng, labeled_group
from calico_model.errors import InvalidRecordError
from calico_model.inference.images import to_pixels
from calico_model.interactive.naming.closed_set import ClosedSet, Outline
from calico_model.interactive.naming.descriptors import describe_outlines
from calico_model.interactive.naming.name_regions import name_regions
from calico_model.loading.checkpoints import load_model, read_tensors, save_model
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.training.add_ons.recipes import RegionRecipe
from calico_model.training.add_ons.region_fit import fit_region_head, true_regions
from calico_model.vocabulary import Vocabulary

SCENES = 12
RECIPE = RegionRecipe(scenes=SCENES, held_out=0.25, epochs=2, batch=16)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    fill_pool(folder, scenes=SCENES, seed=4, size_px=64, groups_per_chunk=6)
    return folder


@pytest.fixture
def weights(tmp_path: Path, model: Calico, tokenizer: Tokenizer) -> Path:
    save_model(model, tokenizer, tmp_path / "weights", dtype=torch.float32)
    return tmp_path / "weights"


def test_only_the_head_is_new(weights: Path, pool: Path, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    fit = fit_region_head(
        weights, pool, tmp_path / "a", RECIPE, on_progress=lambda *step: steps.append(step)
    )
    assert fit.regions > SCENES
    assert 0.0 <= fit.accuracy <= 100.0
    assert steps[-1][1] == steps[-1][2]
    before = read_tensors(weights / "model.safetensors")
    after = read_tensors(fit.model / "model.safetensors")
    own = {name for name in after if name.startswith("region_head.")}
    assert set(after) - own == set(before)
    for name, tensor in before.items():
        rounded = tensor.bfloat16().float() if tensor.ndim > 1 else tensor
        assert torch.equal(after[name].float(), rounded.float()), name
    again = fit_region_head(weights, pool, tmp_path / "b", RECIPE)
    for name in own:
        assert torch.equal(read_tensors(again.model / "model.safetensors")[name], after[name])


def test_a_fitted_head_has_opinions_and_an_old_folder_none(
    weights: Path, pool: Path, tmp_path: Path
) -> None:
    fit = fit_region_head(weights, pool, tmp_path / "a", RECIPE)
    rng = group_rng(Stream.TRAINING, 4, 0)
    labeled = labeled_group(draw_group(rng, split=SceneSplit.SEEN, size_px=64))
    outlines = [Outline(key[0], mask.numpy()) for key, mask in true_regions(labeled).items()]
    closed = ClosedSet(Vocabulary(("leg", "wheel", "body", "head")))
    for folder, knows in ((weights, False), (fit.model, True)):
        model, tokenizer = load_model(folder)
        with torch.no_grad():
            features = model.encode(to_pixels(labeled.group.images, model.config))
        named = name_regions(model, tokenizer, features, outlines, closed)
        assert any(one.chance > 0.25 + 1e-6 for one in named) is knows
        assert np.isfinite(describe_outlines(model, features, outlines)).all()


def test_a_pool_without_scenes_to_hold_out_is_refused(
    weights: Path, pool: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRecordError, match="hold out"):
        fit_region_head(weights, pool, tmp_path / "a", RegionRecipe(scenes=1, held_out=1.0))
    assert not (tmp_path / "a").exists()
