from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from calico_model.data.comparison import compare
from calico_model.data.pool import ScenePool, fill_pool
from calico_model.errors import InvalidConfigError, InvalidRecordError
from calico_model.modeling.losses import (
    dice_loss,
    hard_iou,
    pixel_loss,
    text_loss,
)
from calico_model.tokenizer import Tokenizer
from calico_model.training.pretraining.batches import WHOLE, batch_scenes, cell_shares, group_batch
from calico_model.training.pretraining.recipe import PretrainingRecipe, Stage
from calico_model.training.pretraining.run import pretrain


@pytest.fixture(scope="module")
def pool_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    fill_pool(folder, scenes=40, seed=1, size_px=128, groups_per_chunk=10)
    return folder


@pytest.fixture(scope="module")
def pool(pool_folder: Path) -> ScenePool:
    return ScenePool(pool_folder)


def test_a_pool_grows_without_changing_what_it_holds(pool_folder: Path, pool: ScenePool) -> None:
    before = [pool.scene(i).image.sum() for i in range(len(pool))]
    again = ScenePool(pool_folder)
    fill_pool(pool_folder, scenes=len(again) + 1, seed=1, size_px=128, groups_per_chunk=10)
    again.refresh()
    assert len(again) > len(before)
    assert [again.scene(i).image.sum() for i in range(len(before))] == before


def test_an_empty_pool_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecordError, match="finished chunks"):
        ScenePool(tmp_path)


def test_every_seg_has_the_mask_of_its_name(pool: ScenePool, tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    groups = [pool.draw_group(rng, 2) for _ in range(3)]
    batch = group_batch(groups, tokenizer, rng, queries=4, questions=3, masks=10_000, side=64)
    assert batch.turns is not None
    scenes = [scene for group in groups for scene in group]
    assert len(batch.masks.target) == len(batch.turns.seg_row) == int(batch.segments[-1]) + 1
    for image, part, target in zip(
        batch.masks.image.tolist(), batch.masks.part.tolist(), batch.masks.target, strict=True
    ):
        scene = scenes[image]
        is_part = (scene.part_map == part + 1) & (scene.object_map == 1)
        expected = scene.object_map > 0 if part == WHOLE else is_part
        assert 0 < target.sum() * 4 <= expected.sum() + 1e-3


def test_regrouped_scenes_have_something_to_compare(pool: ScenePool) -> None:
    rng = np.random.default_rng(0)
    shared = [bool(compare(pool.draw_group(rng, 2)).common_parts) for _ in range(30)]
    assert np.mean(shared) > 0.8


def test_questions_without_an_answer_are_asked_as_seldom_as_wished(
    pool: ScenePool, tokenizer: Tokenizer
) -> None:
    rng = np.random.default_rng(0)
    groups = [pool.draw_group(rng, 3) for _ in range(60)]

    def answered(nothing_chance: float) -> float:
        batch = group_batch(
            groups, tokenizer, np.random.default_rng(1), queries=4, questions=1, masks=8, side=16,
            nothing_chance=nothing_chance,
        )  # fmt: skip
        assert batch.turns is not None
        return len(set(batch.turns.seg_row.tolist())) / len(groups)

    assert answered(1e-6) > answered(1.0) + 0.1
    # Every group of the pool has a question with something to answer.
    assert answered(1e-6) > 0.95


def test_larger_groups_ask_more_questions_until_a_step_has_its_turns() -> None:
    stage = Stage("x", 1, 1e-3, language=True, turns=12)
    assert [stage.questions_of(groups) for groups in (16, 10, 8, 6, 5, 1)] == [1, 1, 2, 2, 2, 3]
    assert replace(stage, turns=0, questions=3).questions_of(16) == 3


def test_cell_shares_are_the_counts_of_each_cell(pool: ScenePool) -> None:
    batch = batch_scenes([pool.scene(0), pool.scene(1)])
    shares = cell_shares(batch.parts, 80, 8)
    assert torch.allclose(shares.sum(-1), torch.ones(2, 8, 8))
    corner = batch.parts[1, 16:32, 48:64]
    expected = torch.bincount(corner.flatten(), minlength=80) / 256
    assert torch.allclose(shares[1, 1, 3], expected)


def test_losses_are_zero_at_the_truth_and_grow_away_from_it() -> None:
    target = torch.zeros(2, 8, 8)
    target[:, 2:6, 2:6] = 1
    sure = (target * 2 - 1) * 30
    for loss in (pixel_loss, dice_loss):
        assert loss(sure, target).max() < 1e-3
        assert loss(-sure, target).min() > 0.5
    assert hard_iou(sure, target).tolist() == [1.0, 1.0]
    assert hard_iou(-sure, target).tolist() == [0.0, 0.0]
    focal = pixel_loss(sure / 10, target, focal_gamma=2.0)
    assert (focal < pixel_loss(sure / 10, target)).all()


def test_text_loss_reads_the_next_token_and_skips_the_prompt() -> None:
    labels = torch.tensor([[-100, -100, 2, 1]])
    logits = torch.full((1, 4, 3), -20.0)
    logits[0, 1, 2] = logits[0, 2, 1] = 20.0
    assert text_loss(logits, labels) < 1e-6
    assert text_loss(logits.roll(1, dims=1), labels) > 5


def test_the_schedule_warms_up_stays_and_decays() -> None:
    stage = Stage("s", 100, 1.0, language=True, warmup_steps=10, decay_share=0.5)
    rates = [stage.rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:50] == [1.0] * 41
    assert rates[99] < 0.05
    assert rates[50:] == sorted(rates[50:], reverse=True)


def test_a_chance_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidConfigError, match="nothing_chance"):
        PretrainingRecipe(stages=(Stage("x", 1, 1e-3, language=True, nothing_chance=0.0),))


def test_a_recipe_without_steps_is_refused() -> None:
    with pytest.raises(InvalidConfigError, match="steps"):
        PretrainingRecipe(stages=(Stage("s", 0, 1.0, language=True),))


def test_interrupted_training_ends_in_the_same_weights(pool_folder: Path, tmp_path: Path) -> None:
    stages = (
        Stage("encoders", 2, 1e-3, language=False, scenes=2, masks=2),
        Stage("joint", 2, 1e-3, language=True, scenes=2, masks=2),
    )
    recipe = PretrainingRecipe(stages=stages, checkpoint_every=1)
    asked = 0

    def interrupt() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    whole = pretrain(recipe, pool_folder, tmp_path / "whole")
    pretrain(recipe, pool_folder, tmp_path / "parts", stop=interrupt)
    assert not (tmp_path / "parts" / "model").exists()
    parts = pretrain(recipe, pool_folder, tmp_path / "parts")

    with pytest.raises(InvalidConfigError, match="seed"):
        pretrain(replace(recipe, seed=1), pool_folder, tmp_path / "parts")
    first = load_file(whole / "model.safetensors")
    second = load_file(parts / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (tmp_path / "whole" / "curve.png").is_file()
