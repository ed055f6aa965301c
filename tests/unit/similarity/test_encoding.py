"""What photographs show, as vectors of the shipped photo trunk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from calico_model.similarity.encoding import PhotoEncoder
from tests.unit.similarity.test_duplicates import picture, saved_again


@pytest.fixture(scope="module")
def encoder():
    return PhotoEncoder()


@pytest.mark.parametrize("size", [(96, 128), (300, 40), (9, 9), (800, 600)])
def test_a_picture_of_any_size_is_one_vector_of_unit_length(encoder, size):
    vector = encoder.vector(picture(0, size))
    assert (vector.shape, vector.dtype) == ((1280,), np.float32)
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-4)


def test_a_picture_saved_again_is_nearer_than_another(encoder):
    first, again, other = (
        encoder.vector(image)
        for image in (picture(1), saved_again(picture(1), quality=95), picture(2))
    )
    assert first @ again > first @ other


def test_threads_may_encode_at_once(encoder):
    images = [picture(seed) for seed in range(4)]
    alone = [encoder.vector(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(encoder.vector, images))
    np.testing.assert_allclose(together, alone, atol=1e-5)
