"""Descriptors of regions from cached features, and the head that names them.

Legend: n regions, M images, L logit side, d width of a descriptor, D the LLM's width.
A descriptor reads frozen encoders only, so it is the same for every adapter of one base. The head
maps it to the space of the LLM's output embeddings, where a label is the mean of its words: the
names define the classes (the idea of FISA's SEVE), and no list of labels is part of the weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from calico_model.config import CalicoConfig
from calico_model.modeling.features import ImageFeatures, as_grid

OUTLINE = 8
"""Side of the thumbnail of a region's outline."""

_AROUND = 16  # the surroundings of a region are a ring, 1/16 of the image's side wide
_PLACE = 10
_FAR = 6.0  # descriptors are clamped at this many deviations
_HIDDEN = 256
_LEAST_DEVIATION = 1e-3  # of a photo trunk's channel in its image

_PHOTO_LEVELS = (1, 2, 3)
"""Positions of the photo trunk's maps that are read: strides 8, 16 and 32."""
PHOTO_TEMPERATURE, PHOTO_FAMILIAR = 0.05, 0.2
"""As in `Fusion`, fitted on four sets of photographs with the shipped photo trunk."""


def describe_regions(features: ImageFeatures, image: Tensor, shares: Tensor) -> list[Tensor]:
    """Pools the frozen features inside and around regions, in blocks.

    Args:
        features: of M images.
        image: (n,) int64 which image each region is in.
        shares: (n, L, L) in [0, 1], share of each cell of the padded square inside the region.

    Returns:
        Float blocks (n, d_b): semantic, global and SAM cells inside; finer SAM cells inside, if the
        features have them; global and SAM cells around; position and size; outline.
    """
    shares = shares.float()[:, None]  # (n, 1, L, L)
    around = _surroundings(shares)
    semantic, global_ = as_grid(features.semantic_tokens), as_grid(features.global_tokens)
    embedding = features.mask.embedding
    inside = (semantic, global_, embedding, *features.mask.fine)
    pooled = [pool_cells(cells, image, shares) for cells in inside]
    pooled += [pool_cells(cells, image, around) for cells in (global_, embedding)]
    places, outlines = zip(*(_frame(share[0]) for share in shares), strict=True)
    return [*pooled, torch.stack(places), torch.stack(outlines)]


def describe_photo_regions(features: ImageFeatures, image: Tensor, shares: Tensor) -> Tensor:
    """Pools the photo trunk's maps inside and around regions.

    CALICO's own encoders learned from drawings; the photo trunk, or the backbone of transformers
    that stands in its place, knows photographs. A channel is read in units of its image: how far
    the region is from the mean of the picture. Nothing is trained, so any backbone will do.

    Args:
        features: of M images, with the photo trunk's maps.
        image: (n,) int64 which image each region is in.
        shares: (n, L, L) in [0, 1], share of each cell of the whole image inside the region.

    Returns:
        (n, d) float32 unit rows; inside and around have the same weight at every level.
    """
    shares = shares.float()[:, None]
    around = _surroundings(shares)
    blocks = []
    for level in _PHOTO_LEVELS:
        values = features.photo[level].float()
        mean = values.mean((2, 3), keepdim=True)
        deviation = values.std((2, 3), correction=0, keepdim=True).clamp(min=_LEAST_DEVIATION)
        cells = (values - mean) / deviation
        blocks += [pool_cells(cells, image, place) for place in (shares, around)]
    rows = torch.cat([functional.normalize(block, dim=1) for block in blocks], 1)
    # A region without cells of its own, such as the whole image, has nothing to tell it by.
    rows = torch.where(rows.any(1, keepdim=True), rows, torch.ones_like(rows))
    return functional.normalize(rows, dim=1)


def descriptor_widths(config: CalicoConfig) -> tuple[int, ...]:
    """Returns the width d_b of each block of `describe_regions`."""
    semantic = config.dino.width if config.ablation.use_dino else config.eva.width
    global_, prompt = config.eva.width, config.mask.prompt_width
    has_fine = config.mask.high_resolution and config.trunk is not None
    fine = (prompt // 4, prompt // 8) if has_fine else ()
    return (semantic, global_, prompt, *fine, global_, prompt, _PLACE, OUTLINE**2)


def pool_cells(cells: Tensor, image: Tensor, shares: Tensor) -> Tensor:
    """Returns the means of (M, D, g, g) cells, weighted by (n, 1, L, L) shares: (n, D)."""
    weights = functional.adaptive_avg_pool2d(shares, cells.shape[-1])[:, 0].flatten(1)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-6)
    # One image after the other: its cells are not copied for each of its many regions.
    means = weights.new_zeros(len(image), cells.shape[1])
    for k in sorted(set(image.tolist())):
        here = image == k
        means[here] = weights[here] @ cells[k].flatten(1).T.float()
    return means


def _surroundings(shares: Tensor) -> Tensor:
    """The ring around (n, 1, L, L) regions, of the same shape."""
    width = max(1, shares.shape[-1] // _AROUND)
    return functional.max_pool2d(shares, 2 * width + 1, 1, width) - shares


def _frame(shares: Tensor) -> tuple[Tensor, Tensor]:
    """Position and size (10,) of (L, L) shares, and a thumbnail of their outline (64,)."""
    side = len(shares)
    is_on = shares >= min(0.5, float(shares.max()))
    rows, columns = is_on.any(1).nonzero()[:, 0], is_on.any(0).nonzero()[:, 0]
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    y, x = (axis.float().mean() for axis in is_on.nonzero(as_tuple=True))
    area = shares.sum()
    edges = torch.tensor([left, right, top, bottom], device=shares.device) / side
    size = torch.tensor([right - left, bottom - top], device=shares.device) / side
    place = torch.cat(
        (
            torch.stack(((area / side**2).clamp(min=1e-5).log(), x / side, y / side)),
            edges,
            size.log(),
            (area / ((right - left) * (bottom - top)))[None],
        )
    )
    crop = shares[None, None, top:bottom, left:right]
    return place, functional.adaptive_avg_pool2d(crop, OUTLINE).flatten()


class RegionHead(nn.Module):
    """Maps descriptors of regions to word embeddings, with one hidden layer.

    `calico fit-names` fits it.

    Attributes:
        centre, spread: (d,) mean and deviation of the descriptors it was fitted on.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, config: CalicoConfig) -> None:
        super().__init__()
        self.widths = descriptor_widths(config)
        width = sum(self.widths)
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.hidden = nn.Linear(width, _HIDDEN)
        self.word = nn.Linear(_HIDDEN, config.language.width)
        self.dropout = nn.Dropout(0.3)
        self.reset()

    def reset(self) -> None:
        """Zeroes the last layer: all labels are equally likely."""
        nn.init.zeros_(self.word.weight)
        nn.init.zeros_(self.word.bias)

    def standardise(self, blocks: list[Tensor]) -> Tensor:
        """Concatenates blocks of descriptors and standardises them: (n, d)."""
        return ((torch.cat(blocks, 1) - self.centre) / self.spread).clamp(-_FAR, _FAR)

    def forward(self, standardised: Tensor, words: Tensor) -> Tensor:
        """Scores labels by their word embeddings.

        Args:
            standardised: (n, d) from `standardise`.
            words: (C, D) unit-length embeddings of C labels.

        Returns:
            (n, C) logits.
        """
        hidden = functional.gelu(self.hidden(self.dropout(standardised)))
        logits: Tensor = self.word(self.dropout(hidden)) @ words.T
        return logits
