"""A region carried through a series with the shipped model: found, lost, found again."""

from __future__ import annotations

import numpy as np
import pytest

from calico_model.assistant import Assistant
from calico_model.data.casting import SceneSplit, Stream, group_rng
from calico_model.data.series import draw_series, part_masks
from calico_model.errors import InvalidMaskError
from calico_model.interactive.propagate.series import carry
from calico_model.masks import mask_iou
from calico_model.predictor import load_predictor
from calico_model.types import ImageGroup, PartMask, RegionKind


@pytest.fixture(scope="module")
def predictor():
    return load_predictor()


@pytest.fixture(scope="module")
def series():
    """Four frames, the third of them blank; and the truth of the largest part on each."""
    scenes = draw_series(group_rng(Stream.EVALUATION, 7, 0), 4, split=SceneSplit.SEEN, size_px=192)
    truth = [part_masks(scene) for scene in scenes]
    name = max(truth[0], key=lambda part: int(truth[0][part].sum()))
    images = [scene.image for scene in scenes]
    images[2] = np.full_like(images[2], images[2].mean((0, 1)).astype(np.uint8))
    return ImageGroup(tuple(images), ("a", "b", "c", "d")), [parts[name] for parts in truth]


@pytest.fixture(scope="module")
def carried(predictor, series):
    group, truth = series
    part = PartMask(0, RegionKind.COMMON_PART, "leaf", truth[0])
    return Assistant(predictor).carry(group, part, {})


def test_the_region_is_found_lost_and_found_again(carried, series):
    _, truth = series
    assert [one.image_index for one in carried] == [1, 2, 3]
    assert [one.is_absent for one in carried] == [False, True, False]
    for one in (carried[0], carried[2]):
        (region,) = one.parts
        assert mask_iou(region.mask, truth[one.image_index]) > 0.7
        assert (region.label, region.kind) == ("leaf", RegionKind.COMMON_PART)
        assert region.score == one.score > 0.5
    assert carried[1].score < 0.5


def test_accepted_images_are_remembered_and_not_drawn_again(predictor, series):
    group, truth = series
    part = PartMask(1, RegionKind.COMMON_PART, "leaf", truth[1])
    (again,) = Assistant(predictor).carry(group, part, {0: truth[0], 2: truth[2]})
    assert again.image_index == 3
    assert mask_iou(again.parts[0].mask, truth[3]) > 0.7


def test_what_was_accepted_last_wins(predictor, series):
    """Another region accepted on the second image is what the later images get."""
    group, truth = series
    scene = draw_series(group_rng(Stream.EVALUATION, 7, 0), 4, split=SceneSplit.SEEN, size_px=192)
    other = [
        mask
        for mask in part_masks(scene[1]).values()
        if not (mask & truth[1]).any() and mask.sum() > 200
    ][0]
    features = predictor.encode(group)
    with predictor.acquire(group) as session:
        found = carry(session.model, features, group.images, {1: other})
    assert [one.image for one in found] == [2, 3]
    assert mask_iou(found[1].mask, truth[3]) < 0.3


@pytest.mark.parametrize(
    ("accepted", "message"),
    [
        ({}, "at least one mask"),
        ({0: np.zeros((192, 192), bool)}, "empty mask"),
        ({0: np.ones((5, 5), bool)}, r"accepted\[0\]: expected \(192, 192\)"),
        ({9: np.ones((192, 192), bool)}, "expected 0 to 3, got 9"),
    ],
)
def test_wrong_masks_are_refused(predictor, series, accepted, message):
    group, _ = series
    features = predictor.encode(group)
    with predictor.acquire(group) as session, pytest.raises(InvalidMaskError, match=message):
        carry(session.model, features, group.images, accepted)
