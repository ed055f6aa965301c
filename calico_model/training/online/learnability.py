"""Can corrections be learned from each other? Leave-one-group-out, in closed form.

A linear classifier of cells (ridge regression on the photo trunk's maps) is fitted to all groups
but one and asked about that one, for every group: sums of squares are kept per group, so that
leaving one out costs one small solve. Corrections that contradict each other, random outlines or
shuffled names, come out at nothing; right ones far above, long before a network learns them.
Legend: n cells, F features, C names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from calico_model.training.online.example import DenseImage

_GRID = 24
_PROJECTED = 96
_RIDGE = 30.0
_LEAST_CELLS = 2  # of a name in an image, to be asked about


@dataclass(frozen=True)
class Predicted:
    """What the other groups say of one group.

    Attributes:
        told: per name and image that was asked, the share in [0, 1] of its cells that get it; asked
            is what another group shows as well.
    """

    told: tuple[tuple[str, float], ...] = ()

    @property
    def names(self) -> int:
        """How many names were asked, counted per image."""
        return len(self.told)

    @property
    def right(self) -> float:
        """Mean share over all of them; 0 where nothing was asked."""
        return sum(share for _, share in self.told) / max(1, len(self.told))


@torch.no_grad()
def leave_one_out(groups: Sequence[Sequence[DenseImage]]) -> tuple[Predicted, ...]:
    """Predicts the part names of every group from all others.

    Args:
        groups: the images of each; those whose parts are not known teach nothing.
    """
    groups = [[one for one in group if one.knows_parts] for group in groups]
    holders = Counter(name for group in groups for name in _names(group))
    names = sorted(holders)
    if not names:
        return tuple(Predicted() for _ in groups)
    features = [[_features(one) for one in group] for group in groups]
    every = torch.cat([one for group in features for one in group])
    mean, scale = every.mean(0), every.std(0) + 1e-3
    codes = [[_codes(one, names) for one in group] for group in groups]
    shown = torch.bincount(
        torch.cat([one for group in codes for one in group]), minlength=1 + len(names)
    )
    weights = (shown.sum() / shown.clamp(min=1)).sqrt()
    sums = [
        _sums([(one - mean) / scale for one in seen], told, weights, 1 + len(names), every.shape[1])
        for seen, told in zip(features, codes, strict=True)
    ]
    square = torch.stack([one for one, _ in sums]).sum(0)
    product = torch.stack([one for _, one in sums]).sum(0)
    found = []
    for seen, told, (own_square, own_product) in zip(features, codes, sums, strict=True):
        rest = square - own_square + _RIDGE * torch.eye(len(square))
        solved = torch.linalg.solve(rest, product - own_product)
        asked = {1 + k for k, name in enumerate(names) if holders[name] > 1}
        right = [
            (names[row - 1], share)
            for one, codes_of in zip(seen, told, strict=True)
            for row, share in _right(_with_one((one - mean) / scale) @ solved, codes_of, asked)
        ]
        found.append(Predicted(tuple(right)))
    return tuple(found)


def _names(group: Sequence[DenseImage]) -> set[str]:
    return {name for one in group for name in one.part_names}


def _features(image: DenseImage) -> Tensor:
    """(n, F) of an image's cells: three levels of maps, and where a cell is."""
    maps = [one[None].float() for one in image.maps[1:]]
    maps[-1] = functional.conv2d(maps[-1], _projection(maps[-1].shape[1]))
    brought = [
        functional.adaptive_avg_pool2d(one, _GRID)
        if one.shape[-1] > _GRID
        else functional.interpolate(one, size=(_GRID, _GRID), mode="bilinear")
        for one in maps
    ]
    line = (torch.arange(_GRID) + 0.5) / _GRID * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    places = torch.stack((y, x, x.abs(), y**2, x**2))[None]
    return torch.cat((*brought, places), 1)[0].flatten(1).transpose(0, 1)


def _projection(width: int) -> Tensor:
    """(96, width, 1, 1) random directions, always the same ones."""
    drawn = torch.randn(_PROJECTED, width, generator=torch.Generator().manual_seed(7))
    scaled: Tensor = drawn / width**0.5
    return scaled[..., None, None]


def _codes(image: DenseImage, names: Sequence[str]) -> Tensor:
    """(n,) int64 of an image's cells, 0 or 1 + index into `names`."""
    rows = torch.tensor([0, *(1 + names.index(name) for name in image.part_names)])
    middles = ((torch.arange(_GRID) + 0.5) / _GRID * image.parts.shape[-1]).long()
    return rows[image.parts[middles[:, None], middles].long()].flatten()


def _with_one(features: Tensor) -> Tensor:
    return torch.cat((features, torch.ones(len(features), 1)), 1)


def _sums(
    features: Sequence[Tensor], codes: Sequence[Tensor], weights: Tensor, names: int, width: int
) -> tuple[Tensor, Tensor]:
    """Weighted X'X (F + 1, F + 1) and X'Y (F + 1, C) of one group."""
    square = torch.zeros(width + 1, width + 1)
    product = torch.zeros(width + 1, names)
    for seen, told in zip(features, codes, strict=True):
        x = _with_one(seen)
        weighted = x * weights[told][:, None]
        square += weighted.T @ x
        product += weighted.T @ functional.one_hot(told, names).float()
    return square, product


def _right(scores: Tensor, codes: Tensor, asked: set[int]) -> list[tuple[int, float]]:
    """Per row of a name that is asked about and shown, the share of its cells that get it."""
    best = scores.argmax(1)
    found = []
    for name in sorted(set(codes.tolist()) & asked):
        own = codes == name
        if int(own.sum()) >= _LEAST_CELLS:
            found.append((name, float((best[own] == name).float().mean())))
    return found
