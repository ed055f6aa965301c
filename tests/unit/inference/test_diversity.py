"""Groups that look alike are found by vectors that are there anyway."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from calico_model.inference.diversity import Clusters, describe, neighbours
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.mask_decoder import MaskFeatures


def features(semantic):
    images = len(semantic)
    embedding = MaskFeatures(torch.zeros(images, 2, 2, 2))
    return ImageFeatures(torch.zeros(images, 3, 4), semantic, embedding)


def test_a_group_is_the_direction_of_its_mean_token():
    semantic = torch.zeros(2, 5, 3)
    semantic[..., 1] = 4.0
    assert describe(features(semantic)).tolist() == [0.0, 1.0, 0.0]
    assert describe(features(torch.zeros(1, 5, 3))).tolist() == [0.0, 0.0, 0.0]


def on_circle(*degrees):
    angles = np.radians(degrees)
    return [np.array([np.cos(a), np.sin(a)], np.float32) for a in angles]


def test_far_groups_get_clusters_of_their_own():
    clusters = Clusters(8)
    placed = [clusters.place(one) for one in on_circle(0, 90, 2, 92, 180, 1, 178)]
    assert placed == [0, 1, 0, 1, 2, 0, 2]


def test_there_are_never_more_clusters_than_asked():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    clusters = Clusters(4)
    assert {clusters.place(one) for one in vectors} == {0, 1, 2, 3}


def test_equal_groups_are_one_cluster():
    clusters = Clusters(8)
    assert {clusters.place(one) for one in on_circle(30, 30, 30)} == {0}


@pytest.mark.parametrize("most", [1, 2, 9])
def test_neighbours_come_nearest_first(most):
    known = dict(zip((5, 6, 7), on_circle(10, 50, 11), strict=True))
    (here,) = on_circle(12)
    assert neighbours(here, known, most=most) == (7, 5, 6)[:most]
    assert neighbours(here, {}, most=most) == ()
