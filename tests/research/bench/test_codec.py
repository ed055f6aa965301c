"""The codec bench: its masks are varied, and a python without the SDK is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from backend.errors import SettingsError
from research.bench.codec import CodecTiming, compare, draw_part, draw_ragged, draw_random


def test_random_masks_hold_every_sort():
    masks = list(draw_random(np.random.default_rng(0), 200))
    assert len(masks) == 200
    assert any(not mask.any() for mask in masks)
    assert any(mask.all() for mask in masks)
    assert any(mask.sum() == 1 for mask in masks)
    assert max(mask.size for mask in masks) * 4 > 65_536
    assert len({mask.shape for mask in masks}) > 100


@pytest.mark.parametrize("draw", [draw_part, draw_ragged])
def test_timed_masks_show_a_part(draw):
    mask = draw(np.random.default_rng(0), 256)
    assert mask.shape == (256, 256)
    assert 0.02 < mask.mean() < 0.6


def test_ratio_is_how_many_times_faster_we_are():
    one = CodecTiming(10, 0.5, 0.25, 5.0, 4.0, is_identical=True)
    assert (one.encode_ratio, one.decode_ratio) == (10.0, 16.0)


@pytest.mark.parametrize("python", ["/no/such/python", shutil.which("false")])
def test_python_without_the_sdk_is_named(python):
    with pytest.raises(SettingsError, match="--sdk-python: .*(cannot be run|label_studio_sdk)"):
        compare({"one": np.ones((2, 2), bool)}, Path(python), repeats=1, sdk_repeats=1)
