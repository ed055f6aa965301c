from __future__ import annotations

import numpy as np
import pytest
import torch

from calico_model.images import scaled_size_hw, to_mask, to_pixels
from calico_model.presets import full
from tests.unit.conftest import micro_config


@pytest.mark.parametrize("size", [(64, 64), (640, 480), (33, 500), (1, 900), (7, 7)])
def test_a_full_logit_map_becomes_a_full_mask_of_the_image(size: tuple[int, int]) -> None:
    mask = to_mask(torch.ones(16, 16), size, 64)
    assert mask.shape == size
    assert mask.all()


def test_padding_never_reaches_the_mask() -> None:
    logits = torch.full((16, 16), -5.0)
    logits[:, :8] = 5.0  # left half of the square = the whole of a 2:1 portrait image
    assert to_mask(logits, (200, 100), 64).mean() > 0.95


def test_a_square_in_the_image_comes_back_where_it_was() -> None:
    truth = np.zeros((96, 128), dtype=np.uint8)
    truth[24:72, 32:64] = 255
    image = np.repeat(truth[..., None], 3, axis=2)
    square = to_pixels([image], micro_config(100)).square[0, 0]
    logits = torch.nn.functional.interpolate(square[None, None], size=(32, 32), mode="area")[0, 0]
    mask = to_mask(logits, (96, 128), 64)
    overlap = (mask & (truth > 0)).sum() / (mask | (truth > 0)).sum()
    assert overlap > 0.9


def test_the_three_streams_of_the_full_model() -> None:
    rng = np.random.default_rng(0)
    pixels = to_pixels([rng.integers(0, 255, (300, 200, 3), dtype=np.uint8)], full())
    assert pixels.square.shape == (1, 3, 1024, 1024)
    assert pixels.eva is not None
    assert pixels.eva.shape == (1, 3, 224, 224)
    assert pixels.dino is not None
    assert pixels.dino.shape == (1, 3, 224, 224)
    height, width = scaled_size_hw((300, 200), 1024)
    assert (height, width) == (1024, 683)
    assert not pixels.square[..., width:].any()


def test_a_mean_grey_image_normalises_to_zero() -> None:
    grey = np.full((8, 8, 3), (124, 116, 104), dtype=np.uint8)
    assert to_pixels([grey], micro_config(100)).square.abs().max() < 0.02
