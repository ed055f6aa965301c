"""Which pictures an adapter is for: those that look like the ones it learned from.

A line between the look of corrected pictures and that of the base's own; where the two look alike
there is none. Groups on the base's side are answered by the base, and nothing about them is
forgotten. Expert gates (Aljundi et al. 2017) over style statistics (Huang and Belongie 2017).
Legend: M images, C channels of a map, P numbers that describe the look of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calico_model.config import CalicoConfig
from calico_model.modeling.features import ImageFeatures

_SHRINKAGE = 0.3
_FOLDS = 4
_LEAST_RIGHT = 0.95


@dataclass(frozen=True, eq=False)
class Domain:
    """A linear discriminant.

    Attributes:
        weight: (P,) float32.
        bias: (1,) float32.
    """

    weight: Tensor
    bias: Tensor

    def covers(self, features: ImageFeatures) -> bool:
        """Whether the images of a group are, on average, on the side of the corrected ones."""
        look = describe(features)
        return bool((look @ self.weight.to(look) + self.bias.to(look)).mean() > 0)


def look_width(config: CalicoConfig) -> int:
    """Returns P."""
    width = config.mask.prompt_width
    has_fine = config.mask.high_resolution and config.trunk is not None
    return 2 * (width // 4 + width // 8 if has_fine else width)


def describe(features: ImageFeatures) -> Tensor:
    """Returns the look of each image: mean and deviation of the channels of its finest maps.

    Args:
        features: of M images.

    Returns:
        (M, P) float32.
    """
    maps = features.mask.fine or (features.mask.embedding,)
    flat = [one.float().flatten(2) for one in maps]  # (M, C, cells)
    return torch.cat([part for one in flat for part in (one.mean(-1), one.std(-1))], dim=1)


def find_domain(corrected: Sequence[ImageFeatures], base: Sequence[ImageFeatures]) -> Domain | None:
    """Tells corrected groups from the base's own, if groups left out are told apart as well.

    Args:
        corrected: features of each corrected group.
        base: features of groups the base was trained on.

    Returns:
        None with fewer than two groups of either, or where the two look alike.
    """
    folds = min(_FOLDS, len(corrected), len(base))
    if folds < 2:
        return None
    inside = outside = 0
    for fold in range(folds):
        rest = [_without(groups, fold, folds) for groups in (corrected, base)]
        line = _discriminant(*rest)
        inside += sum(line.covers(one) for one in corrected[fold::folds])
        outside += sum(not line.covers(one) for one in base[fold::folds])
    if inside < _LEAST_RIGHT * len(corrected) or outside < _LEAST_RIGHT * len(base):
        return None
    return _discriminant(corrected, base)


def _without(groups: Sequence[ImageFeatures], fold: int, folds: int) -> list[ImageFeatures]:
    return [one for number, one in enumerate(groups) if number % folds != fold]


def _discriminant(corrected: Sequence[ImageFeatures], base: Sequence[ImageFeatures]) -> Domain:
    """Fisher's, in units of the base's deviation, its covariance shrunk towards the identity."""
    inside = torch.cat([describe(one) for one in corrected]).double()
    outside = torch.cat([describe(one) for one in base]).double()
    centre, scale = outside.mean(0), outside.std(0) + 1e-6
    inside, outside = (inside - centre) / scale, (outside - centre) / scale
    apart = inside.mean(0)
    spread = torch.cat([outside, inside - apart])
    covariance = (1 - _SHRINKAGE) * spread.T @ spread / len(spread)
    covariance += _SHRINKAGE * torch.eye(len(apart), dtype=covariance.dtype, device=apart.device)
    direction = torch.linalg.solve(covariance, apart)
    weight = direction / scale
    bias = -(direction @ apart) / 2 - weight @ centre
    return Domain(weight.float(), bias.float().reshape(1))
