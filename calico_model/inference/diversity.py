"""Clusters of a project's groups by appearance, from cached features.

A group is one vector: the mean of its images' semantic (DINO) tokens, not centred, of length 1.
Clusters grow as groups arrive, by farthest point: a group far from every centre becomes a new
centre. Groups in the same order get the same clusters. Pure arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from calico_model.types import Vector

if TYPE_CHECKING:  # torch takes seconds to import, and clusters do not need it
    from calico_model.modeling.features import ImageFeatures

_FAR = 0.5  # of the largest distance seen so far
_LEAST_DISTANCE = 1e-4


def describe(features: ImageFeatures) -> Vector:
    """Returns the mean semantic token of a group of M images, (D_s,) float32 of length 1."""
    mean = features.semantic_tokens.float().mean(dim=(0, 1)).cpu().numpy()
    length = float(np.linalg.norm(mean))
    return np.asarray(mean / length if length > 0 else mean, dtype=np.float32)


class Clusters:
    """Farthest-point clusters of vectors that arrive one by one.

    Args:
        most: number of clusters at most.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._centres: list[Vector] = []
        self._widest = 0.0

    def place(self, vector: Vector) -> int:
        """Returns the 0-based cluster of a vector, which may be a new cluster."""
        if not self._centres:
            self._centres.append(vector)
            return 0
        distances = 1.0 - np.stack(self._centres) @ vector  # (K,) of cosine
        nearest = int(np.argmin(distances))
        apart = float(distances[nearest])
        is_new = apart > max(_FAR * self._widest, _LEAST_DISTANCE)
        self._widest = max(self._widest, apart)
        if not is_new or len(self._centres) >= self._most:
            return nearest
        self._centres.append(vector)
        return len(self._centres) - 1


def neighbours(vector: Vector, known: Mapping[int, Vector], *, most: int) -> tuple[int, ...]:
    """Returns the keys of the vectors most similar to a vector, nearest first, ties by key."""
    if not known:
        return ()
    keys = sorted(known)
    cosines = np.stack([known[key] for key in keys]) @ vector
    nearest = np.argsort(-cosines, kind="stable")[:most]
    return tuple(keys[row] for row in nearest)
