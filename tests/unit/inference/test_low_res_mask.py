"""The decoder's mask where somebody looks at it: as if all of it had been brought to its image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from calico_model.inference.images import to_image, to_mask
from calico_model.inference.low_res_mask import Decoded, mask_of
from calico_model.masks import extent_of

SIDE, LOGITS = 64, 16


def smooth(seed: int, level: float = 0.0) -> torch.Tensor:
    """Logits of some blobs."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(level, 2, (1, 1, 5, 5)).astype(np.float32))
    return torch.nn.functional.interpolate(coarse, (LOGITS, LOGITS), mode="bicubic")[0, 0]


@pytest.mark.parametrize("size_hw", [(64, 64), (300, 200), (97, 401), (20, 13), (1, 50)])
def test_every_pixel_is_that_of_the_two_interpolations(size_hw: tuple[int, int]) -> None:
    logits, (height, width) = smooth(0), size_hw
    whole = to_image(logits, size_hw, SIDE)
    decoded = Decoded.of(logits, size_hw, SIDE)
    assert np.allclose(decoded.sample((0, 0, width, height), size_hw), whole, atol=1e-4)
    x0, y0 = width // 3, height // 3
    inside = decoded.sample((x0, y0, width, height), (height - y0, width - x0))
    assert np.allclose(inside, whole[y0:, x0:], atol=1e-4)


@pytest.mark.parametrize("size_hw", [(1000, 1000), (700, 1001), (50, 40)])
@pytest.mark.parametrize("seed", range(4))
def test_the_extent_holds_the_mask_closely(size_hw: tuple[int, int], seed: int) -> None:
    decoded = Decoded.of(smooth(seed, -2.0), size_hw, SIDE)
    exact, found = extent_of(decoded.mask()), decoded.extent()
    assert exact is not None
    assert found is not None
    near = max(size_hw) / 256 + 1
    assert np.allclose(found, exact, atol=near)


def test_an_empty_mask_is_nowhere() -> None:
    decoded = Decoded.of(torch.full((LOGITS, LOGITS), -1.0), (30, 40), SIDE)
    assert decoded.extent() is None
    assert not decoded.mask().any()


def test_a_mask_is_handed_back_as_it_is() -> None:
    logits = smooth(1)
    assert np.array_equal(
        mask_of(Decoded.of(logits, (90, 70), SIDE)), to_mask(logits, (90, 70), SIDE)
    )
    drawn = np.eye(9, dtype=np.bool_)
    again = mask_of(drawn)
    assert np.array_equal(again, drawn)
    assert again is not drawn
