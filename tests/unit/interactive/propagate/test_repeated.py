"""Alike parts one by one: what the procedure promises whatever the weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from calico_model.inference.images import to_pixels
from calico_model.interactive.propagate.repeated import (
    PartPrompt,
    draw_all_parts,
    draw_next_part,
    middle,
    spot,
)
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.mask_memory import SPOT_RADIUS, History, MaskSource
from calico_model.modeling.model import Calico

SIDE, WIDTH = 32, 32


@pytest.fixture
def features(model: Calico, images: list[np.ndarray]) -> ImageFeatures:
    with torch.no_grad():
        return model.encode(to_pixels(images, model.config))


@pytest.fixture
def prompt(model: Calico, features: ImageFeatures) -> torch.Tensor:
    """One that draws something."""
    for seed in range(50):
        torch.manual_seed(seed)
        sparse = 3 * torch.randn(1, WIDTH)
        with torch.no_grad():
            logits, _ = model.mask_decoder(features.mask, torch.tensor([0]), sparse[None])
        if 20 < int((logits > 0).sum()) < SIDE * SIDE - 20:
            return sparse
    raise AssertionError("no prompt draws a part of the image")


def test_a_spot_is_a_disc_around_its_place() -> None:
    found = spot(4.5, 9.5, SIDE) > 0
    rows, columns = torch.nonzero(found).T
    assert found[4, 9]
    assert int(rows.max() - rows.min()) == int(columns.max() - columns.min()) == 2 * SPOT_RADIUS


def test_the_middle_is_deep_inside_and_not_the_mean_of_a_ring() -> None:
    ring = np.ones((9, 9), dtype=bool)
    ring[3:6, 3:6] = False
    row, column = middle(ring)
    assert ring[int(row), int(column)]


def test_the_whole_is_what_the_prompt_draws_bit_for_bit(
    model: Calico, features: ImageFeatures, prompt: torch.Tensor
) -> None:
    whole = draw_all_parts(model, features, PartPrompt(0, prompt))
    with torch.no_grad():
        logits, iou = model.mask_decoder(features.mask, torch.tensor([0]), prompt[None])
    assert torch.equal(whole.logits, logits[0, 0])
    assert whole.iou == float(iou[0, 0].clamp(0, 1))


@pytest.fixture
def remembering(model: Calico) -> Calico:
    torch.manual_seed(2)
    model.add_on(["mask_memory"])
    assert model.mask_memory is not None
    with torch.no_grad():
        for parameter in model.mask_memory.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def test_the_next_part_leaves_out_what_is_done(
    remembering: Calico, features: ImageFeatures, prompt: torch.Tensor
) -> None:
    asked = PartPrompt(0, prompt)
    whole = draw_all_parts(remembering, features, asked).logits
    upper = torch.zeros(SIDE, SIDE)
    upper[:16] = 1.0
    free = draw_next_part(remembering, features, asked, whole, [])
    assert free is not None
    assert bool((free.logits > 0).any())
    below = draw_next_part(remembering, features, asked, whole, [upper])
    if below is not None:
        assert not bool((below.logits[:16] > 0).any())
    assert draw_next_part(remembering, features, asked, whole, [torch.ones(SIDE, SIDE)]) is None


@pytest.fixture
def stripes(remembering: Calico, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Four of them; a decoder that draws the one whose columns the spot is in."""
    drawn = torch.full((SIDE, SIDE), -5.0)
    drawn[2:30, ::8] = drawn[2:30, 1::8] = 5.0

    def near_the_spot(history: History) -> torch.Tensor:
        spots = history.logits[(history.source == MaskSource.SOUGHT) & history.is_there]
        columns = (spots > 0).any(1).float()[:, None, None].expand(-1, WIDTH, SIDE // 4, -1)
        return columns.reshape(len(spots), WIDTH, SIDE // 4, SIDE // 4, 4).amax(-1)

    def decode(masks, at, sparse, dense):
        asked = (dense - dense.amin((1, 2, 3), keepdim=True)).mean(1).repeat_interleave(4, 1)
        asked = asked.repeat_interleave(4, 2)
        return torch.where(asked > 0.5, drawn, -5.0)[:, None], torch.full((len(at), 1), 0.9)

    monkeypatch.setattr(remembering.mask_memory, "forward", near_the_spot)
    monkeypatch.setattr(remembering.mask_decoder, "forward", decode)
    torch.nn.init.zeros_(remembering.mask_decoder.prompt_encoder.no_mask_embed.weight)
    return drawn


def test_part_after_part_is_drawn_until_none_is_left(
    remembering: Calico, features: ImageFeatures, prompt: torch.Tensor, stripes: torch.Tensor
) -> None:
    done: list[torch.Tensor] = []
    while piece := draw_next_part(remembering, features, PartPrompt(0, prompt), stripes, done):
        done.append((piece.logits > 0).float())
        assert piece.iou == pytest.approx(0.9)
        assert len(done) <= 4
    assert len(done) == 4
    assert torch.equal(sum(done), (stripes > 0).float())


def test_spots_that_lead_nowhere_end_the_search(
    remembering: Calico,
    features: ImageFeatures,
    prompt: torch.Tensor,
    stripes: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds = []

    def nothing(masks, at, sparse, dense):
        rounds.append(1)
        return torch.full((1, 1, SIDE, SIDE), -5.0), torch.zeros(1, 1)

    monkeypatch.setattr(remembering.mask_decoder, "forward", nothing)
    assert draw_next_part(remembering, features, PartPrompt(0, prompt), stripes, []) is None
    assert 1 < len(rounds) <= 8
