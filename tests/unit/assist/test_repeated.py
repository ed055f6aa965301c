"""Alike parts one by one: what the procedure promises whatever the weights."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from calico_model.assist.repeated import MOST, Prompted, middle, separate, spot
from calico_model.features import ImageFeatures
from calico_model.images import to_pixels
from calico_model.modeling.mask_memory import SPOT_RADIUS, History, Source
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


def test_without_a_memory_the_whole_mask_answers_bit_for_bit(
    model: Calico, features: ImageFeatures, prompt: torch.Tensor
) -> None:
    ((piece,),) = separate(model, features, [Prompted(0, prompt)])
    with torch.no_grad():
        logits, _ = model.mask_decoder(features.mask, torch.tensor([0]), prompt[None])
    assert torch.equal(piece.logits, logits[0, 0])


@pytest.fixture
def remembering(model: Calico) -> Calico:
    torch.manual_seed(2)
    model.add_on(["mask_memory"])
    assert model.mask_memory is not None
    with torch.no_grad():
        for parameter in model.mask_memory.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def test_pieces_do_not_overlap(
    remembering: Calico, features: ImageFeatures, prompt: torch.Tensor
) -> None:
    (pieces,) = separate(remembering, features, [Prompted(0, prompt)])
    masks = [piece.logits > 0 for piece in pieces]
    assert 1 <= len(masks) <= MOST
    assert not any((a & b).any() for a, b in pairwise(masks))


def test_pieces_leave_out_what_is_approved(
    remembering: Calico, features: ImageFeatures, prompt: torch.Tensor
) -> None:
    approved = torch.zeros(SIDE, SIDE)
    approved[:16] = 1.0
    asked = Prompted(0, prompt, approved=(approved,))
    for piece in separate(remembering, features, [asked])[0]:
        assert not bool((piece.logits[:16] > 0).any())


def test_no_more_pieces_than_wanted(
    remembering: Calico, features: ImageFeatures, prompt: torch.Tensor
) -> None:
    assert len(separate(remembering, features, [Prompted(0, prompt)], most=1)[0]) == 1


def test_images_asked_together_get_what_they_get_alone(
    remembering: Calico,
    features: ImageFeatures,
    prompt: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One image has four stripes, one has two left: rounds of different lengths side by side."""
    stripes = torch.full((SIDE, SIDE), -5.0)
    stripes[2:30, ::8] = stripes[2:30, 1::8] = 5.0

    def near_the_spot(history: History) -> torch.Tensor:
        is_sought = (history.source == Source.SOUGHT) & history.is_there
        spots = history.logits[is_sought]  # one per row
        columns = (spots > 0).any(1).float()[:, None, None].expand(-1, WIDTH, SIDE // 4, -1)
        return columns.reshape(len(spots), WIDTH, SIDE // 4, SIDE // 4, 4).amax(-1)

    def decode(masks, at, sparse, dense):
        asked = (dense - dense.amin((1, 2, 3), keepdim=True)).mean(1).repeat_interleave(4, 1)
        asked = asked.repeat_interleave(4, 2)
        is_plain = asked.flatten(1).amax(1) == 0
        drawn = torch.where(is_plain[:, None, None] | (asked > 0.5), stripes, -5.0)
        return drawn[:, None], torch.full((len(at), 1), 0.9)

    decoder = remembering.mask_decoder
    monkeypatch.setattr(remembering.mask_memory, "forward", near_the_spot)
    monkeypatch.setattr(decoder, "forward", decode)
    torch.nn.init.zeros_(decoder.prompt_encoder.no_mask_embed.weight)
    done = torch.zeros(SIDE, SIDE)
    done[:, :16] = 1.0
    asked = [Prompted(0, prompt), Prompted(1, prompt, approved=(done,))]
    together = separate(remembering, features, asked)
    assert [len(pieces) for pieces in together] == [4, 2]
    for one, pieces in zip(asked, together, strict=True):
        (alone,) = separate(remembering, features, [replace(one, whole=stripes)])
        for piece, own in zip(pieces, alone, strict=True):
            assert torch.equal(piece.logits, own.logits)
