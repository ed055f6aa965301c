"""Descriptors of regions from the photo trunk's maps: photographs, and all pictures of a backbone.

CALICO's own encoders learned from drawings; the photo trunk, or the backbone of transformers that
stands in its place, knows photographs. A channel is read in units of its image: how far the region
is from the mean of the picture. Nothing is trained, so any backbone will do.
Legend: n regions, M images, L cells on a side, d width of a descriptor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.region_head import pool_cells

LEVELS = (1, 2, 3)
"""Positions of the maps that are read: strides 8, 16 and 32."""
TEMPERATURE, FAMILIAR = 0.05, 0.2
"""As in `Fusion`, fitted on four sets of photographs with the shipped photo trunk."""

_AROUND = 16  # the surroundings of a region are a ring, 1/16 of the image's side wide
_LEAST_DEVIATION = 1e-3


def describe_photo_regions(features: ImageFeatures, image: Tensor, shares: Tensor) -> Tensor:
    """Pools the photo trunk's maps inside and around regions.

    Args:
        features: of M images, with the photo trunk's maps.
        image: (n,) int64 which image each region is in.
        shares: (n, L, L) in [0, 1], share of each cell of the whole image inside the region.

    Returns:
        (n, d) float32 unit rows; inside and around have the same weight at every level.
    """
    shares = shares.float()[:, None]
    width = max(1, shares.shape[-1] // _AROUND)
    around = functional.max_pool2d(shares, 2 * width + 1, 1, width) - shares
    blocks = []
    for level in LEVELS:
        values = features.photo[level].float()
        mean = values.mean((2, 3), keepdim=True)
        deviation = values.std((2, 3), correction=0, keepdim=True).clamp(min=_LEAST_DEVIATION)
        cells = (values - mean) / deviation
        blocks += [pool_cells(cells, image, place) for place in (shares, around)]
    rows = torch.cat([functional.normalize(block, dim=1) for block in blocks], 1)
    # A region without cells of its own, such as the whole image, has nothing to tell it by.
    rows = torch.where(rows.any(1, keepdim=True), rows, torch.ones_like(rows))
    return functional.normalize(rows, dim=1)


def photo_region_width(widths: Sequence[int]) -> int:
    """Returns d of a photo trunk whose maps have these channels."""
    return 2 * sum(widths[level] for level in LEVELS)
