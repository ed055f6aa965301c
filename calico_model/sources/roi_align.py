"""Average pooling of a box out of a feature map, as torchvision's `roi_align` defines it.

SAM 3 reads boxes with it. torchvision is not needed: a box is two small matrices, because bilinear
sampling of a grid is separable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def roi_align(features: Tensor, boxes: Sequence[Tensor], bins: int) -> Tensor:
    """Pools boxes of feature maps; `aligned=False`, `sampling_ratio=-1` of torchvision.

    Args:
        features: (B, C, H, W) float.
        boxes: B tensors (n_b, 4), x0, y0, x1, y1 in cells.
        bins: side of the pooled grid.

    Returns:
        (sum of n_b, C, bins, bins), the boxes of the first map first.
    """
    height, width = features.shape[-2:]
    pooled = [
        torch.einsum(
            "ph,chw,qw->cpq",
            _axis_weights(y0, y1, height, bins).to(features),
            one,
            _axis_weights(x0, x1, width, bins).to(features),
        )
        for one, of_image in zip(features, boxes, strict=True)
        for x0, y0, x1, y1 in of_image.tolist()
    ]
    return torch.stack(pooled) if pooled else features.new_zeros(0, features.shape[1], bins, bins)


def _axis_weights(start: float, end: float, cells: int, bins: int) -> Tensor:
    """(bins, cells): what every cell of one axis contributes to every bin."""
    length = max(end - start, 1.0)
    samples = max(1, math.ceil(length / bins))  # per bin
    position = start + (torch.arange(bins * samples, dtype=torch.float64) + 0.5) * (
        length / bins / samples
    )
    is_inside = (position >= -1.0) & (position <= cells)
    position = position.clamp(0, cells - 1)
    low = position.floor().long()
    high = (low + 1).clamp(max=cells - 1)
    weights = torch.zeros(bins * samples, cells, dtype=torch.float64)
    rows = torch.arange(bins * samples)
    weights[rows, low] += 1 - (position - low)
    weights[rows, high] += position - low
    weights *= is_inside[:, None]
    return weights.view(bins, samples, cells).mean(1)
