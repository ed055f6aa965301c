"""From coarse cells to the pixels of a photograph: edges of the picture, and no fragments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from calico_model.inference.sharpening import Guide, without_fragments
from calico_model.types import BoolMask, RgbImage


def overlap(one: BoolMask, other: BoolMask) -> float:
    return float((one & other).sum() / (one | other).sum())


def disc(size_hw: tuple[int, int], centre: tuple[float, float], radius: float) -> BoolMask:
    rows, columns = np.ogrid[: size_hw[0], : size_hw[1]]
    found: BoolMask = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
    return found


def photo(mask: BoolMask) -> RgbImage:
    """A thing on a ground, both a little uneven."""
    rng = np.random.default_rng(3)
    base = np.where(mask[..., None], (190, 120, 60), (70, 110, 90)).astype(np.float32)
    seen: RgbImage = (base + rng.normal(0, 6, base.shape)).clip(0, 255).astype(np.uint8)
    return seen


def coarse(mask: BoolMask, cells: int = 16) -> torch.Tensor:
    values = torch.from_numpy(mask.astype(np.float32))[None, None]
    return functional.adaptive_avg_pool2d(values, cells)[0]


@pytest.mark.parametrize("size_hw", [(240, 240), (150, 400), (400, 150)])
def test_masks_end_where_the_picture_changes(size_hw: tuple[int, int]) -> None:
    truth = disc(size_hw, (0.45 * size_hw[0], 0.55 * size_hw[1]), 0.3 * min(size_hw))
    guide = Guide(photo(truth))
    chance = coarse(truth)
    plain = functional.interpolate(
        chance[None], size=size_hw, mode="bilinear", align_corners=False
    )[0, 0]
    sharp = guide.mask(guide.sharpen(chance)[0] - 0.5)
    assert sharp.shape == size_hw
    assert overlap(sharp, truth) > max(0.93, overlap((plain > 0.5).numpy(), truth) + 0.01)


def test_a_mask_a_little_beside_its_thing_is_drawn_to_it() -> None:
    truth, beside = disc((240, 240), (120, 120), 60), disc((240, 240), (120, 126), 60)
    guide = Guide(photo(truth))
    sharp = guide.mask(guide.sharpen(coarse(beside, 96))[0] - 0.5)
    assert overlap(sharp, truth) > overlap(beside, truth) + 0.01


def test_without_edges_cells_stay_what_they_were() -> None:
    guide = Guide(np.full((96, 96, 3), 120, np.uint8))
    chance = torch.zeros(1, 12, 12)
    chance[:, 3:9, 3:9] = 1.0
    found = guide.sharpen(chance)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    mask = guide.mask(found[0] - 0.5)
    truth = np.zeros((96, 96), bool)
    truth[24:72, 24:72] = True
    assert overlap(mask, truth) > 0.9


def test_all_maps_of_an_image_are_brought_to_one_size() -> None:
    guides = [Guide(np.zeros((*size_hw, 3), np.uint8)) for size_hw in ((2000, 1000), (9, 5))]
    chances = torch.rand(3, 8, 8)
    assert [tuple(one.sharpen(chances).shape) for one in guides] == [(3, 512, 256), (3, 9, 5)]
    masks = [one.mask(one.sharpen(chances)[0] - 0.5) for one in guides]
    assert [mask.shape for mask in masks] == [(2000, 1000), (9, 5)]


def test_small_pieces_beside_a_large_one_are_removed() -> None:
    mask = disc((100, 100), (50, 30), 20) | disc((100, 100), (20, 80), 4)
    assert np.array_equal(without_fragments(mask), disc((100, 100), (50, 30), 20))


def test_pieces_of_like_size_stay_and_so_do_holes() -> None:
    two = disc((100, 100), (50, 25), 15) | disc((100, 100), (50, 75), 9)
    ring = disc((100, 100), (50, 50), 30) & ~disc((100, 100), (50, 50), 10)
    for mask in (two, ring, np.zeros((10, 10), bool), np.ones((10, 10), bool)):
        assert np.array_equal(without_fragments(mask), mask)
