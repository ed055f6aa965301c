"""Drawn series: the same object on every frame, moved, with its truth."""

from __future__ import annotations

import numpy as np
import pytest

from calico_model.data.casting import SceneSplit, Stream, group_rng
from calico_model.data.series import draw_series, part_masks
from calico_model.errors import InvalidConfigError
from calico_model.masks import mask_iou


def drawn(seed, frames=5):
    rng = group_rng(Stream.EVALUATION, 7, seed)
    return draw_series(rng, frames, split=SceneSplit.SEEN, size_px=128)


def test_a_series_can_be_drawn_again():
    for first, second in zip(drawn(0), drawn(0), strict=True):
        assert np.array_equal(first.image, second.image)
        assert np.array_equal(first.part_map, second.part_map)


@pytest.mark.parametrize("seed", range(4))
def test_frames_show_one_object_that_moves_a_little(seed):
    scenes = drawn(seed)
    assert len({scene.categories for scene in scenes}) == 1
    near = [scenes[0], scenes[1]]
    masks = [scene.object_map == 1 for scene in near]
    assert 0.4 < mask_iou(*masks) < 1.0
    names = [set(part_masks(scene)) for scene in near]
    assert names[0] & names[1]


def test_some_objects_leave():
    last = [drawn(seed, 11)[-1] for seed in range(6)]
    assert any(not part_masks(scene) for scene in last)
    assert any(part_masks(scene) for scene in last)


def test_parts_lie_in_the_main_object():
    for scene in drawn(1):
        for mask in part_masks(scene).values():
            assert (scene.object_map[mask] == 1).all()


def test_one_frame_is_no_series():
    with pytest.raises(InvalidConfigError, match="frames: expected at least 2"):
        drawn(0, 1)
