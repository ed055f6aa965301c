"""One picture saved twice is found; two pictures are two."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from calico_model.similarity.duplicates import FINGERPRINT_BYTES, fingerprint, near_duplicates


def picture(seed, size=(96, 128)):
    """Soft blobs of colour, (H, W, 3) uint8."""
    cells = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(cells).resize(size[::-1], Image.Resampling.BICUBIC))


def saved_again(image, *, quality=40, scale=1.0):
    width, height = (round(scale * length) for length in image.shape[1::-1])
    file = io.BytesIO()
    Image.fromarray(image).resize((width, height)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def test_a_picture_saved_again_is_the_same_and_others_are_not():
    images = [picture(0), picture(1), saved_again(picture(0)), saved_again(picture(1), scale=0.5)]
    images.append(picture(2))
    found = near_duplicates([fingerprint(image) for image in images])
    assert sorted(map(sorted, found)) == [[0, 2], [1, 3]]


def test_a_red_and_a_blue_thing_of_one_form_are_two():
    red, blue = np.full((2, 64, 64, 3), 255, np.uint8)
    red[20:44, 10:54] = (200, 30, 30)
    blue[20:44, 10:54] = (30, 30, 200)
    assert near_duplicates([fingerprint(red), fingerprint(blue)]) == []


def test_pictures_of_one_colour_are_never_the_same():
    grey = np.full((32, 32, 3), 128, np.uint8)
    assert near_duplicates([fingerprint(grey), fingerprint(grey)]) == []


def test_more_pictures_than_one_block_of_rows():
    rows = np.random.default_rng(0).integers(0, 255, (2500, FINGERPRINT_BYTES), np.uint8)
    prints = [row.tobytes() for row in rows]
    assert near_duplicates([*prints, prints[3], prints[2499]]) == [[3, 2500], [2499, 2501]]


def test_nothing_to_compare():
    assert near_duplicates([]) == near_duplicates([bytes(FINGERPRINT_BYTES)]) == []
