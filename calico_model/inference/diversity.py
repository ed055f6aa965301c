"""How alike the groups of a project look, from features that are cached anyway.

A group is one vector: the mean of its images' semantic (DINO) tokens, centred on nothing and of
length 1. Clusters are found as groups come, by farthest point: a group that is far from every
centre becomes one. Groups in the same order get the same clusters. Pure arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from calico_model.types import Vector

if TYPE_CHECKING:  # torch takes seconds to import, and who places vectors needs none
    from calico_model.modeling.features import ImageFeatures

_FAR = 0.5  # of the largest distance seen so far
_LEAST_DISTANCE = 1e-4


def describe(features: ImageFeatures) -> Vector:
    """Returns the mean semantic token of a group of M images, (D_s,) float32 of length 1."""
    mean = features.semantic_tokens.float().mean(dim=(0, 1)).cpu().numpy()
    length = float(np.linalg.norm(mean))
    return np.asarray(mean / length if length > 0 else mean, dtype=np.float32)


class Clusters:
    """Farthest-point clusters of vectors that come one by one.

    Args:
        most: clusters there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._centres: list[Vector] = []
        self._widest = 0.0

    def place(self, vector: Vector) -> int:
        """Returns the cluster of a vector, 0-based; it may be the first of a new one."""
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
    """Returns the keys of the vectors most like this one, nearest first, ties by key."""
    if not known:
        return ()
    keys = sorted(known)
    likeness = np.stack([known[key] for key in keys]) @ vector
    nearest = np.argsort(-likeness, kind="stable")[:most]
    return tuple(keys[place] for place in nearest)
