"""The same part in the other photographs of a group, by its looks on the photo trunk's maps.

A cell is of the part as far as it is nearer to the outlined cells than to all others of the
outlined image, in looks and a little in place (k nearest neighbours, no training). What the project
has learned by name is better and is asked first, see `transfer`.
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
_PLACE_WEIGHT = 0.1  # of the squared distance of places, which run from -1 to 1
_NEAREST = 3
_INSIDE, _OUTSIDE = 0.4, 0.1  # share of a cell from which, and to which, it is and is not the part
_ABSENT_PEAK = 0.065
_PRESENCE_SLOPE = 40.0


@dataclass(frozen=True, eq=False)
class PhotoSighting:
    """Where one image may show an outlined part.

    Attributes:
        image: 0-based position in the group.
        mask: (H, W) bool, rough; empty if nothing is like it.
        presence: chance in [0, 1] that the part is there.
    """

    image: int
    mask: BoolMask
    presence: float


@torch.inference_mode()
def find_in_photos(
    features: ImageFeatures, source: int, outline: BoolMask, sizes_hw: SizesHw
) -> tuple[PhotoSighting, ...]:
    """Looks for an outlined part in the other images.

    Args:
        features: of a group, with the photo trunk's maps.
        source: the outlined image.
        outline: (H, W) bool there, not empty.
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
    place = _places()
    nearer = -_PLACE_WEIGHT * torch.cdist(place, place) ** 2
    found = []
    for image, size_hw in enumerate(sizes_hw):
        if image == source:
            continue
        alike = cells[image] @ cells[source].T + nearer
        score = _nearest(alike[:, inside]) - _nearest(alike[:, outside])
        peak = float(score.amax())
        level = cv2.resize(
            score.view(_SIDE, _SIDE).numpy(), size_hw[::-1], interpolation=cv2.INTER_LINEAR
        )
        mask: BoolMask = np.asarray(level) > 0
        presence = 1 / (1 + float(np.exp(-_PRESENCE_SLOPE * (peak - _ABSENT_PEAK))))
        found.append(PhotoSighting(image, mask, presence))
    return tuple(found)


def _cells(features: ImageFeatures) -> Tensor:
    """(M, N, D) unit vectors of the looks of cells, as they differ inside the group."""
    levels = []
    for level in _LEVELS:
        maps = functional.interpolate(
            features.photo[level].float().cpu(), size=(_SIDE, _SIDE), mode="bilinear"
        )
        looks = maps.flatten(2).transpose(1, 2)
        mean, spread = looks.mean((0, 1)), looks.std((0, 1)) + 1e-3
        levels.append(functional.normalize((looks - mean) / spread, dim=2))
    return functional.normalize(torch.cat(levels, 2), dim=2)


def _places() -> Tensor:
    """(N, 2) middles of cells, from -1 to 1."""
    along = (torch.arange(_SIDE) + 0.5) / _SIDE * 2 - 1
    return torch.cartesian_prod(along, along)


def _nearest(alike: Tensor) -> Tensor:
    """Mean of the largest few of each row of (N, n)."""
    if alike.shape[1] == 0:
        return torch.zeros(len(alike))
    return alike.topk(min(_NEAREST, alike.shape[1]), 1).values.mean(1)
