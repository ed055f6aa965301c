"""Simulated annotators: where they click, what learns from it, and that none cost nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from calico_model.data.pool import ScenePool, fill_pool
from calico_model.modeling.mask_decoder import (
    SURE_LOGIT,
    MaskFeatures,
    PointKind,
    PromptedMaskDecoder,
)
from calico_model.modeling.model import Calico
from calico_model.presets import tiny
from calico_model.tokenizer import Tokenizer
from calico_model.training.pretraining.batches import dictionary_batch
from calico_model.training.pretraining.objective import LossWeights, PretrainingObjective
from calico_model.training.pretraining.run import use_plain_attention
from calico_model.training.simulated_clicks import _Annotators, click_losses, draw_clicks

FRAME = 128
SIDE = 64


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> ScenePool:
    folder = tmp_path_factory.mktemp("pool")
    fill_pool(folder, scenes=8, seed=1, size_px=128, groups_per_chunk=4)
    return ScenePool(folder)


def discs(count: int, radius: float = 9.0) -> Tensor:
    """(count, SIDE, SIDE) discs, each somewhere else."""
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    centres = torch.linspace(15, 45, count)
    return torch.stack([
        ((rows - centre) ** 2 + (columns - 50 + centre / 2) ** 2 < radius**2).float()
        for centre in centres
    ])  # fmt: skip


def logits_of(masks: Tensor) -> Tensor:
    return (2 * masks - 1) * 5


def cell_of(points: Tensor) -> tuple[Tensor, Tensor]:
    cells = (points[:, 0] * SIDE / FRAME).floor().long()
    return cells[:, 1], cells[:, 0]


def test_a_first_click_is_inside_and_a_first_box_around_the_part() -> None:
    target = discs(64)
    annotators = _Annotators(target, FRAME, seed=3)
    points, kinds = annotators.begin(torch.full_like(target, -5.0))
    is_box = kinds[:, 0] == PointKind.FIRST_CORNER
    assert 6 <= int(is_box.sum()) <= 30
    assert (kinds[is_box, 1] == PointKind.SECOND_CORNER).all()
    clicked = ~is_box
    assert (kinds[clicked] == torch.tensor([PointKind.POSITIVE, PointKind.NONE])).all()
    row, column = cell_of(points)
    assert (target[torch.arange(64), row, column][clicked] == 1).all()
    for corners, mask in zip(points[is_box], target[is_box], strict=True):
        inside = mask.nonzero() * FRAME / SIDE
        truth = torch.stack((inside.amin(0).flip(0), inside.amax(0).flip(0) + FRAME / SIDE))
        assert (corners - truth).abs().max() <= 20 / 1024 * FRAME + 1e-3


def test_a_correcting_click_adds_what_is_missing_and_removes_what_is_too_much() -> None:
    target = discs(64)
    shifted = target.roll(6, dims=2)
    annotators = _Annotators(target, FRAME, seed=1)
    points, kinds = annotators.next_click(logits_of(shifted))
    row, column = cell_of(points)
    every = torch.arange(64)
    assert (target[every, row, column] != shifted[every, row, column]).all()
    is_missing = target[every, row, column] == 1
    assert is_missing.any()
    assert (~is_missing).any()
    expected = torch.where(is_missing, int(PointKind.POSITIVE), int(PointKind.NEGATIVE))
    assert (kinds[:, 0] == expected).all()


def test_most_clicks_are_in_the_middle_of_the_largest_error() -> None:
    target = discs(200, radius=7.0)
    specks = target.clone()
    specks[:, 60:62, 60:62] = 1  # a second, small error
    points, _ = _Annotators(specks, FRAME, seed=0).next_click(torch.full_like(target, -5.0))
    row, column = cell_of(points)
    centres = torch.stack([mask.nonzero().float().mean(0) for mask in target])
    distance = (torch.stack((row, column), 1) - centres).norm(dim=1)
    assert (distance < 3).float().mean() > 0.65


def test_a_part_smaller_than_a_cell_can_be_clicked() -> None:
    target = torch.zeros(8, SIDE, SIDE)
    target[:, 20, 30] = 0.2
    annotators = _Annotators(target, FRAME, seed=0)
    points, kinds = annotators.next_click(torch.full_like(target, -5.0))
    row, column = cell_of(points)
    assert (row == 20).all()
    assert (column == 30).all()
    assert (kinds == PointKind.POSITIVE).all()


def test_earlier_masks_are_shown_as_logits_or_as_drawn() -> None:
    annotators = _Annotators(discs(64), FRAME, seed=0)
    logits = logits_of(discs(64)) * 0.3
    shown = annotators.shown(logits)
    is_soft = (shown == logits).flatten(1).all(1)
    assert 0 < int(is_soft.sum()) < 64
    drawn = shown[~is_soft]
    assert drawn.abs().max() == SURE_LOGIT
    assert ((drawn > 0) == (logits[~is_soft] > 0)).float().mean() > 0.97


def decoder_and_features() -> tuple[PromptedMaskDecoder, MaskFeatures]:
    torch.manual_seed(0)
    decoder = PromptedMaskDecoder(tiny(300))
    fine = (torch.randn(2, 32, 32, 32) * 0.1, torch.randn(2, 16, 64, 64) * 0.1)
    return decoder, MaskFeatures(torch.randn(2, 128, 16, 16) * 0.1, fine)


def test_every_prompt_learns_and_the_same_seed_draws_the_same() -> None:
    decoder, features = decoder_and_features()
    target = discs(12)
    image = torch.arange(12) % 2
    proposed = logits_of(target.roll(5, dims=1))

    def run(seed: int) -> Tensor:
        found = click_losses(decoder, features, image, target, proposed, seed)
        assert 0 <= found.iou <= 1
        return found.pixel + found.dice + found.quality

    loss = run(7)
    assert torch.equal(loss, run(7))
    assert not torch.equal(loss, run(8))
    loss.backward()
    prompts = decoder.prompt_encoder
    learned = [*prompts.point_embeddings, prompts.not_a_point_embed, prompts.no_mask_embed]
    learned += [prompts.mask_downscaling, decoder.mask_decoder.mask_tokens]
    for module in learned:
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    assert (decoder.mask_decoder.mask_tokens.weight.grad.abs().sum(1) > 0).sum() >= 2


def test_no_clicks_draw_nothing_and_leave_the_step_as_it_is(
    pool: ScenePool, tokenizer: Tokenizer
) -> None:
    rng, untouched = np.random.default_rng(5), np.random.default_rng(5)
    assert draw_clicks(rng, 40, 0) is None
    assert rng.random() == untouched.random()

    torch.manual_seed(0)
    model = Calico(tiny(tokenizer.size))
    model.initialise()
    use_plain_attention(model)
    objective = PretrainingObjective(model, LossWeights(0.3, 0.5, 0.3))
    batch = dictionary_batch([pool.scene(0), pool.scene(1)], rng, 4, model.config.mask_side)
    clicked = replace(batch, clicks=draw_clicks(rng, len(batch.masks.image), 3))
    objective.eval()
    total, terms = objective(batch)
    more, further = objective(clicked)
    assert not any(name.startswith("click") for name in terms)
    assert all(torch.equal(terms[name], further[name]) for name in terms)
    assert {n for n in further if n not in terms} == {
        "click_pixel", "click_dice", "click_quality", "click_iou",
    }  # fmt: skip
    assert more > total


def test_a_step_clicks_as_many_masks_as_there_are_at_most() -> None:
    draw = draw_clicks(np.random.default_rng(0), 5, 32)
    assert draw is not None
    assert draw.rows.tolist() == [0, 1, 2, 3, 4]
    draw = draw_clicks(np.random.default_rng(0), 80, 32)
    assert draw is not None
    assert len(set(draw.rows.tolist())) == 32
