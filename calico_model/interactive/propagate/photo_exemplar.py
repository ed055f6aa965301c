"""One outlined part on the other photographs of its group, by appearance in the photo trunk's maps.

A cell belongs to the part if it is more similar to the outlined cells than to all other cells of
the outlined image, in appearance and a little in position (k nearest neighbours, no training). The
dense head is better for names that the project has learned, see `transfer`.
Legend: M images, S side of the cells, N = S * S.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from calico_model.inference.images import whole_shares
from calico_model.inference.segments import SizesHw
from calico_model.modeling.features import ImageFeatures
from calico_model.types import BoolMask

_SIDE = 32
_LEVELS = (2, 3)  # strides 16 and 32
_POSITION_WEIGHT = 0.1  # of the squared distance of positions, which run from -1 to 1
_NEAREST = 3
_INSIDE = 0.4  # share of a cell inside the outline from which the cell is of the part
_OUTSIDE = 0.1  # share up to which the cell is not of the part
_ABSENT_PEAK = 0.065
_PRESENCE_SLOPE = 40.0


@dataclass(frozen=True, eq=False)
class PhotoProposal:
    """The proposed part in one photograph of the group.

    Attributes:
        image: 0-based position in the group.
        mask: (H, W) bool, rough; empty if no cell is similar.
        presence: chance in [0, 1] that the image shows the part.
    """

    image: int
    mask: BoolMask
    presence: float


@torch.inference_mode()
def find_in_photos(
    features: ImageFeatures, source: int, outline: BoolMask, sizes_hw: SizesHw
) -> tuple[PhotoProposal, ...]:
    """Proposes an outlined part on the other photographs of its group.

    Args:
        features: of a group, with the photo trunk's maps.
        source: the outlined image.
        outline: (H, W) bool in that image, not empty.
        sizes_hw: (height, width) in pixels of each image.

    Returns:
        One per other image, in order.
    """
    cells = _cells(features)
    shares = whole_shares(outline, _SIDE).flatten()
    inside = shares > _INSIDE
    if not bool(inside.any()):
        inside = shares >= shares.max()
    outside = (shares < _OUTSIDE) & ~inside
    positions = _positions()
    closeness = -_POSITION_WEIGHT * torch.cdist(positions, positions) ** 2
    proposals = []
    for image, size_hw in enumerate(sizes_hw):
        if image == source:
            continue
        similarity = cells[image] @ cells[source].T + closeness
        score = _mean_of_nearest(similarity[:, inside]) - _mean_of_nearest(similarity[:, outside])
        peak = float(score.amax())
        level = cv2.resize(
            score.view(_SIDE, _SIDE).numpy(), size_hw[::-1], interpolation=cv2.INTER_LINEAR
        )
        mask: BoolMask = np.asarray(level) > 0
        presence = 1 / (1 + float(np.exp(-_PRESENCE_SLOPE * (peak - _ABSENT_PEAK))))
        proposals.append(PhotoProposal(image, mask, presence))
    return tuple(proposals)


def _cells(features: ImageFeatures) -> Tensor:
    """(M, N, D) unit vectors of the appearance of cells, standardised over the group."""
    levels = []
    for level in _LEVELS:
        maps = functional.interpolate(
            features.photo[level].float().cpu(), size=(_SIDE, _SIDE), mode="bilinear"
        )
        vectors = maps.flatten(2).transpose(1, 2)
        mean, deviation = vectors.mean((0, 1)), vectors.std((0, 1)) + 1e-3
        levels.append(functional.normalize((vectors - mean) / deviation, dim=2))
    return functional.normalize(torch.cat(levels, 2), dim=2)


def _positions() -> Tensor:
    """(N, 2) middles of cells, from -1 to 1."""
    along = (torch.arange(_SIDE) + 0.5) / _SIDE * 2 - 1
    return torch.cartesian_prod(along, along)


def _mean_of_nearest(similarity: Tensor) -> Tensor:
    """(N,) mean of the largest few of each row of (N, n)."""
    if similarity.shape[1] == 0:
        return torch.zeros(len(similarity))
    return similarity.topk(min(_NEAREST, similarity.shape[1]), 1).values.mean(1)
