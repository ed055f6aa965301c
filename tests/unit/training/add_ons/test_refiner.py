"""The refiner learns, nothing else does; annotators do what annotators do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from calico_model.data.pool import fill_pool
from calico_model.errors import InvalidConfigError
from calico_model.loading.checkpoints import load_model
from calico_model.modeling.adapter import base_state
from calico_model.training.add_ons import encoded_groups
from calico_model.training.add_ons.annotators import draw_annotators
from calico_model.training.add_ons.encoded_groups import EncodedGroups
from calico_model.training.add_ons.recipes import RefinerRecipe
from calico_model.training.add_ons.refiner import train_refiner


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    fill_pool(folder, scenes=8, seed=4, size_px=96, groups_per_chunk=4)
    return folder


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded_groups, "GROUPS_PER_CHUNK", 6)


def recipe(steps: int = 3) -> RefinerRecipe:
    return RefinerRecipe(chunks=1, steps=steps, masks=4, rounds=2, checkpoint_every=2)


def test_only_the_refiner_learns_and_a_stopped_run_goes_on(
    weights: Path, pool: Path, tmp_path: Path
) -> None:
    whole = train_refiner(recipe(), weights, pool, tmp_path / "whole")
    asked = iter([False, False, True])
    stopped = train_refiner(recipe(), weights, pool, tmp_path / "parts", stop=lambda: next(asked))
    assert stopped is None
    assert not (tmp_path / "parts" / "model").exists()
    parts = train_refiner(recipe(), weights, pool, tmp_path / "parts")
    before = base_state(load_model(weights)[0])
    one, other = base_state(load_model(whole)[0]), base_state(load_model(parts)[0])
    assert {name.split(".")[0] for name in one.keys() - before.keys()} == {"mask_refiner"}
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
    for name, tensor in before.items():
        assert torch.equal(tensor.to(torch.bfloat16), one[name].to(torch.bfloat16)), name
    last = one["mask_refiner.edge.1.weight"]
    assert last.any()
    with pytest.raises(InvalidConfigError, match="steps: the run was started with 3, got 4"):
        train_refiner(recipe(4), weights, pool, tmp_path / "whole")


def test_annotators_begin_in_every_way_and_click_in_what_is_wrong(
    weights: Path, groups: EncodedGroups
) -> None:
    model, _ = load_model(weights)
    rng = np.random.default_rng(5)
    plan = RefinerRecipe(masks=60)
    drawn = draw_annotators(model, groups, rng, plan)
    assert len(drawn) == 60
    silent = [one for one in drawn if not one.is_asking]
    boxed = [one for one in drawn if one.box is not None]
    corrected = [one for one in drawn if one.previous is not None]
    clicked = [one for one in drawn if one.clicks and one.previous is None and one.box is None]
    assert min(map(len, (silent, boxed, corrected, clicked))) > 0
    assert all(one.prompt is None and one.proposed is not None for one in silent)
    for one in (*corrected, *clicked):
        (click,) = one.clicks
        before = one.previous if one.previous is not None else np.zeros_like(one.truth)
        at = int(click.y), int(click.x)
        if before.any():
            assert bool(one.truth[at]) is click.is_positive
            assert bool(one.truth[at]) is not bool(before[at]) or np.array_equal(before, one.truth)
        else:
            assert one.truth[at]
    for one in boxed:
        assert one.box is not None
        x0, y0, x1, y1 = one.box
        inside = one.truth[max(0, int(y0)) : int(y1) + 1, max(0, int(x0)) : int(x1) + 1]
        assert inside.sum() > 0.6 * one.truth.sum()


def test_a_right_answer_ends_the_round(weights: Path, groups: EncodedGroups) -> None:
    model, _ = load_model(weights)
    (one,) = draw_annotators(model, groups, np.random.default_rng(1), RefinerRecipe(masks=1))
    one.previous = one.truth
    before = len(one.clicks)
    assert not one.see(one.truth.copy(), np.random.default_rng(2))
    assert one.see(~one.truth, np.random.default_rng(2))
    assert len(one.clicks) == before + 1


def test_a_first_answer_may_be_looked_at_twice(weights: Path, groups: EncodedGroups) -> None:
    model, _ = load_model(weights)
    rng = np.random.default_rng(1)
    drawn = draw_annotators(model, groups, rng, RefinerRecipe(masks=40))
    begun = [one for one in drawn if one.is_asking and one.previous is None]
    clicks = [len(one.clicks) for one in begun]
    answer = ~begun[0].truth
    for one in begun:
        assert one.see(answer, rng)
    again = [one for one in begun if one.refined is not None]
    assert 0 < len(again) < len(begun)
    for one, before in zip(begun, clicks, strict=True):
        assert len(one.clicks) == before + (one.refined is None)
        assert np.array_equal(one.coarse(model) > 0, answer)


@pytest.mark.parametrize("name", ["chunks", "steps", "masks", "rounds", "checkpoint_every"])
def test_a_recipe_needs_something_to_do(name: str) -> None:
    with pytest.raises(InvalidConfigError, match=f"{name}: expected >= 1, got 0"):
        RefinerRecipe(**{name: 0})
