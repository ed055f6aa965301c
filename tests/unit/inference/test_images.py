from __future__ import annotations

import numpy as np
import pytest
import torch

from calico_model.inference.images import (
    mask_shares,
    scaled_size_hw,
    to_mask,
    to_pixels,
    whole_shares,
    whole_to_padded,
)
from calico_model.presets import full
from tests.conftest import micro_config


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


@pytest.mark.parametrize("size", [(97, 131), (333, 250), (61, 64), (200, 77), (50, 51)])
@pytest.mark.parametrize("angle", [0.0, 0.3, 1.1, 1.5708, 2.5])
def test_a_border_comes_back_to_a_fiftieth_of_a_pixel(size: tuple[int, int], angle: float) -> None:
    """Bilinear resampling keeps a plane, so only the frames can be wrong, whatever the scale."""
    side, cells = 64, 16
    height, width = size
    scaled = scaled_size_hw(size, side)
    normal = np.cos(angle), np.sin(angle)

    def distance(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Original pixels between a point of the image and a border through its middle."""
        return normal[0] * (x[None] - width / 2) + normal[1] * (y[:, None] - height / 2)

    centres = (np.arange(cells) + 0.5) * side / cells
    logits = distance(centres * height / scaled[0], centres * width / scaled[1])
    mask = to_mask(torch.from_numpy(logits), size, side)

    truth = distance(np.arange(height) + 0.5, np.arange(width) + 0.5)
    is_clear = np.abs(truth) > 0.02
    # Within half a cell of the square's own edge there is nothing to interpolate with.
    edge = int(np.ceil(side / cells / 2 * max(size) / side)) + 1
    inside = np.s_[edge:-edge, edge:-edge]
    assert np.array_equal(mask[inside] & is_clear[inside], (truth > 0.02)[inside])


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


@pytest.mark.parametrize("size", [(97, 131), (640, 256), (1, 300), (64, 64), (10, 7)])
def test_shares_are_what_each_cell_covers(size: tuple[int, int]) -> None:
    side, cells = 64, 16
    mask = np.random.default_rng(0).random(size) < 0.3
    shares = mask_shares(mask, side, cells)
    # Every pixel drawn as a block of 16 x 16, and counted where its middle is.
    fine = np.kron(mask, np.ones((16, 16)))
    (height, width), (shown_h, shown_w) = fine.shape, scaled_size_hw(size, side)
    rows = (np.arange(height) + 0.5) * shown_h / height * cells / side
    columns = (np.arange(width) + 0.5) * shown_w / width * cells / side
    counted = np.zeros((cells, cells))
    np.add.at(counted, (rows.astype(int)[:, None], columns.astype(int)[None]), fine)
    expected = counted * (shown_h / height) * (shown_w / width) * (cells / side) ** 2
    assert np.allclose(shares.numpy(), expected, atol=0.05)
    assert float(shares.sum()) == pytest.approx(float(expected.sum()), rel=1e-4)


def test_an_empty_mask_has_no_shares() -> None:
    assert not mask_shares(np.zeros((30, 40), np.bool_), 64, 16).any()


@pytest.mark.parametrize("size", [(120, 120), (60, 300), (300, 60), (31, 100)])
def test_cells_of_a_whole_image_come_back_where_they_were(size: tuple[int, int]) -> None:
    """Whatever its sides: through the square of all cells and the padded square to its pixels."""
    height, width = size
    truth = np.zeros(size, bool)
    truth[height // 5 : height // 2, width // 3 : (4 * width) // 5] = True
    shares = whole_shares(truth, 32)
    assert shares.shape == (32, 32)
    assert float(shares.mean()) == pytest.approx(truth.mean(), abs=0.02)
    assert bool((shares[:6] == 0).all())
    padded = whole_to_padded(8 * shares - 4, size)
    assert padded.shape == (64, 64)
    mask = to_mask(padded, size, 256)
    assert (mask & truth).sum() / (mask | truth).sum() > 0.85


def test_where_the_image_is_not_nothing_is() -> None:
    padded = whole_to_padded(torch.ones(16, 16), (100, 400))
    assert bool((padded[:8] == 1).all())
    assert float(padded[8:].max()) < -1
    assert to_mask(padded, (100, 400), 64)[:90].all()  # the last cells meet the padding
    tall = whole_to_padded(torch.ones(16, 16), (400, 100))
    assert torch.equal(tall, padded.T)
    thin = whole_to_padded(torch.ones(16, 16), (1, 4000))
    assert bool((thin[0] == 1).all())
    assert float(thin[1:].max()) < -1


def test_shares_of_a_whole_image_are_what_each_cell_covers() -> None:
    mask = np.zeros((40, 20), bool)
    mask[:5, :5] = True
    shares = whole_shares(mask, 4)  # cells of 10 x 5 pixels
    assert shares[0].tolist() == pytest.approx([0.5, 0.0, 0.0, 0.0])
    assert float(shares.sum()) == pytest.approx(0.5)
    assert float(whole_shares(np.ones((3, 7), bool), 4).min()) == 1.0
