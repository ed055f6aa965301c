"""Order, masks and sums of fine-tuning, without training anything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from calico_model.errors import InvalidConfigError
from calico_model.loading.precision import Precision
from calico_model.training.supervised.batches import (
    COUNTS,
    DataOrder,
    cells_inside,
    square_target,
)
from calico_model.training.supervised.objective import SUMS, terms_of
from calico_model.training.supervised.recipe import FULL_SIZE, FinetuneRecipe


def test_every_pass_shows_every_sample_once_in_another_order() -> None:
    order = DataOrder(5, seed=3)
    passes = [[order.at(p * 5 + k) for k in range(5)] for p in range(3)]
    assert [{number for number, _ in one} for one in passes] == [{0}, {1}, {2}]
    assert all(sorted(index for _, index in one) == list(range(5)) for one in passes)
    assert len({tuple(index for _, index in one) for one in passes}) > 1
    again = DataOrder(5, seed=3)
    assert [again.at(k) for k in (14, 0, 7)] == [passes[2][4], passes[0][0], passes[1][2]]


def test_a_mask_keeps_its_area_and_its_place() -> None:
    mask = np.zeros((40, 20), bool)
    mask[10:20, 5:15] = True
    target = square_target(mask, 64, 16).float()  # 64 x 32 of the square are image
    assert target.shape == (16, 16)
    assert target.sum() * 16 == pytest.approx(100 * 1.6**2, rel=0.05)
    assert target[:, 8:].sum() == 0
    inside = cells_inside(torch.tensor([[16.0, 8.0], [16.0, 2.5]]), 16)
    assert inside[0, :, :8].min() == 1
    assert inside[0, :, 8:].max() == 0
    assert inside[1, 3, :4].tolist() == [1, 1, 0.5, 0]


def test_masks_count_the_same_for_every_image_position() -> None:
    sums, counts = torch.zeros(SUMS), torch.zeros(COUNTS)
    counts[0], sums[0] = 4, 8.0
    counts[1], counts[3] = 3, 1  # three masks on image 1, one on image 3
    sums[1], sums[3] = 6.0, 4.0  # pixel losses
    terms = terms_of(sums, counts, FinetuneRecipe())
    assert terms["text"] == 2.0
    assert terms["pixel"] == 2.0 * (6 / 3 + 4 / 1) / 2
    assert terms["loss"] == terms["text"] + terms["pixel"]


def test_a_step_without_masks_has_no_mask_loss() -> None:
    counts = torch.zeros(COUNTS)
    counts[0] = 2
    terms = terms_of(torch.ones(SUMS), counts, FinetuneRecipe())
    assert terms["loss"] == 0.5


def test_the_rate_warms_up_from_zero_and_decays_to_zero() -> None:
    recipe = FinetuneRecipe(learning_rate=1.0, warmup_steps=10)
    rates = [recipe.rate_at(step, 50) for step in range(50)]
    assert rates[:2] == pytest.approx([0.1, 0.2])
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert np.diff(rates[10:]) == pytest.approx(-1 / 40)
    assert rates[-1] == pytest.approx(1 / 40)


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"batch": 5, "micro_batch": 2}, "batch"),
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"holdout": 1.0}, "holdout"),
        ({"seed": -1}, "seed"),
        ({"log_every": 0}, "log_every"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(changed: dict[str, int], name: str) -> None:
    with pytest.raises(InvalidConfigError, match=f"{name}: expected"):
        replace(FinetuneRecipe(), **changed)


def test_every_process_must_get_as_much() -> None:
    FinetuneRecipe(batch=12, micro_batch=2).check_processes(3)
    with pytest.raises(InvalidConfigError, match="multiple of micro_batch times processes, 8"):
        FinetuneRecipe(batch=12, micro_batch=2).check_processes(4)


def test_the_full_size_is_the_papers() -> None:
    assert FULL_SIZE.epochs * FULL_SIZE.steps_for(2_400_000) == 5000
    assert (FULL_SIZE.learning_rate, FULL_SIZE.warmup_steps) == (4e-4, 100)
    assert (FULL_SIZE.betas, FULL_SIZE.weight_decay, FULL_SIZE.clip_norm) == ((0.9, 0.95), 0.0, 1.0)
    assert FULL_SIZE.precision is Precision.BF16
    assert FULL_SIZE.checkpointing
