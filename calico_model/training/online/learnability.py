"""Leave-one-group-out prediction of corrections from each other, in closed form.

A linear classifier of cells (ridge regression on the photo trunk's maps) is fitted to all groups
but one and predicts that group, for every group: sums of squares are kept per group, so that
leaving one out costs one small solve. Corrections that contradict each other, random outlines or
shuffled names, are predicted hardly at all; consistent corrections far better, long before a
network learns them.
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
_LEAST_CELLS = 2  # of a name in an image, to be predicted


@dataclass(frozen=True)
class CrossPrediction:
    """How well a classifier of the other groups names the parts of one group.

    Attributes:
        shares: (name, share in [0, 1] of its cells that get this name), one per image and name;
            only names that another group shows as well.
    """

    shares: tuple[tuple[str, float], ...] = ()

    @property
    def names(self) -> int:
        """Number of predicted names, counted per image."""
        return len(self.shares)

    @property
    def right(self) -> float:
        """Mean share over all names; 0 without any."""
        return sum(share for _, share in self.shares) / max(1, len(self.shares))


@torch.no_grad()
def leave_one_out(groups: Sequence[Sequence[DenseImage]]) -> tuple[CrossPrediction, ...]:
    """Predicts the part names of every group from all others.

    Args:
        groups: the images of each; images whose parts are not known are left out.
    """
    groups = [[image for image in group if image.knows_parts] for group in groups]
    holders = Counter(name for group in groups for name in _names(group))
    names = sorted(holders)
    if not names:
        return tuple(CrossPrediction() for _ in groups)
    features = [[_features(image) for image in group] for group in groups]
    every = torch.cat([cells for group in features for cells in group])
    mean, scale = every.mean(0), every.std(0) + 1e-3
    codes = [[_codes(image, names) for image in group] for group in groups]
    shown = torch.bincount(
        torch.cat([cells for group in codes for cells in group]), minlength=1 + len(names)
    )
    weights = (shown.sum() / shown.clamp(min=1)).sqrt()
    sums = [
        _sums(
            [(cells - mean) / scale for cells in group_features],
            group_codes,
            weights,
            1 + len(names),
            every.shape[1],
        )
        for group_features, group_codes in zip(features, codes, strict=True)
    ]
    square = torch.stack([group_square for group_square, _ in sums]).sum(0)
    product = torch.stack([group_product for _, group_product in sums]).sum(0)
    shared = {1 + k for k, name in enumerate(names) if holders[name] > 1}
    predictions = []
    for group_features, group_codes, (group_square, group_product) in zip(
        features, codes, sums, strict=True
    ):
        others = square - group_square + _RIDGE * torch.eye(len(square))
        solved = torch.linalg.solve(others, product - group_product)
        shares = [
            (names[row - 1], share)
            for cells, truth in zip(group_features, group_codes, strict=True)
            for row, share in _right(_with_one((cells - mean) / scale) @ solved, truth, shared)
        ]
        predictions.append(CrossPrediction(tuple(shares)))
    return tuple(predictions)


def _names(group: Sequence[DenseImage]) -> set[str]:
    return {name for image in group for name in image.part_names}


def _features(image: DenseImage) -> Tensor:
    """(n, F) features of an image's cells: three levels of maps, and the place of the cell."""
    maps = [level[None].float() for level in image.maps[1:]]
    maps[-1] = functional.conv2d(maps[-1], _projection(maps[-1].shape[1]))
    resized = [
        functional.adaptive_avg_pool2d(level, _GRID)
        if level.shape[-1] > _GRID
        else functional.interpolate(level, size=(_GRID, _GRID), mode="bilinear")
        for level in maps
    ]
    line = (torch.arange(_GRID) + 0.5) / _GRID * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    places = torch.stack((y, x, x.abs(), y**2, x**2))[None]
    return torch.cat((*resized, places), 1)[0].flatten(1).transpose(0, 1)


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
    for cells, truth in zip(features, codes, strict=True):
        x = _with_one(cells)
        weighted = x * weights[truth][:, None]
        square += weighted.T @ x
        product += weighted.T @ functional.one_hot(truth, names).float()
    return square, product


def _right(scores: Tensor, codes: Tensor, shared: set[int]) -> list[tuple[int, float]]:
    """Per shared name that the image shows: its row, and the share of its cells that get it."""
    best = scores.argmax(1)
    shares = []
    for name in sorted(set(codes.tolist()) & shared):
        cells = codes == name
        if int(cells.sum()) >= _LEAST_CELLS:
            shares.append((name, float((best[cells] == name).float().mean())))
    return shares
