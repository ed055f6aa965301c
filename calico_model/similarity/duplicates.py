"""Finds pictures that are one photograph saved twice: encoded again, made smaller, or turned."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from calico_model.types import RgbImage

FINGERPRINT_SIDE = 16
FINGERPRINT_BYTES = FINGERPRINT_SIDE * FINGERPRINT_SIDE * 3
SAME_PICTURE = 0.99
"""From this correlation of two fingerprints on they are one picture."""

_FLAT = 2.0  # a standard deviation below it, of 0-255, is noise
_ROWS = 2048


def fingerprint(image: RgbImage) -> bytes:
    """Returns a picture of (16, 16, 3) uint8 for an (H, W, 3) uint8 picture, as bytes."""
    size = (FINGERPRINT_SIDE, FINGERPRINT_SIDE)
    return bytes(cv2.resize(image, size, interpolation=cv2.INTER_AREA).tobytes())


def near_duplicates(fingerprints: Sequence[bytes]) -> list[list[int]]:
    """Returns the sets of pictures that are one photograph, by position, two or more each.

    Memory grows with the number of pictures, not with its square. Pictures of one colour are never
    called the same: nothing tells them apart but their noise.
    """
    count = len(fingerprints)
    if count < 2:
        return []
    rows = _standardised(fingerprints)
    first, second = [], []
    for top in range(0, count, _ROWS):
        alike = rows[top : top + _ROWS] @ rows.T >= SAME_PICTURE
        one, other = np.nonzero(alike)
        first.append(one + top)
        second.append(other)
    one, other = np.concatenate(first), np.concatenate(second)
    graph = coo_matrix((np.ones(len(one), np.bool_), (one, other)), shape=(count, count))
    _, set_of = connected_components(graph, directed=False)
    sets: dict[int, list[int]] = {}
    for index, number in enumerate(set_of.tolist()):
        sets.setdefault(number, []).append(index)
    return [members for members in sets.values() if len(members) > 1]


def _standardised(fingerprints: Sequence[bytes]) -> NDArray[np.float32]:
    """(N, 768) float32, each row of mean 0 and length 1, or 0 for a picture of one colour."""
    rows = np.frombuffer(b"".join(fingerprints), np.uint8).reshape(len(fingerprints), -1)
    values = rows.astype(np.float32)
    # Colour for colour: a red and a blue chair before the same wall are two photographs.
    values -= values.mean(axis=1, keepdims=True)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    is_flat = length < _FLAT * np.sqrt(values.shape[1])
    return np.asarray(np.where(is_flat, 0.0, values / np.maximum(length, 1e-6)), np.float32)
