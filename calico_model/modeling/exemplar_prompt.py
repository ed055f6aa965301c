"""Exemplar prompts: an outlined part becomes the prompt for the same part in other images.

The features of the part, pooled under its mask in three feature spaces, become sparse prompt
tokens. The similarity of each cell of the other image to the part, and to the part's surroundings,
becomes a dense prompt. The mask decoder is unchanged; the dense prompt starts at zero.
Legend: n prompts, M images, C prompt width, G embedding grid, T_s semantic tokens of width D_s,
D_g global width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from calico_model.config import CalicoConfig
from calico_model.modeling.features import ImageFeatures, as_grid

TOKENS = 2
_HEADS, _HEAD_WIDTH, _HIDDEN = 8, 16, 48
_RING = 2  # cells around the part that count as its surroundings
_SPACES = 3


@dataclass(frozen=True)
class ExemplarPrototypes:
    """Prototypes of n outlined parts: unit-length mean features in three spaces.

    Attributes:
        inside: mean of the part's cells: SAM embedding (n, C), semantic (n, D_s), global (n, D_g).
        around: the same of the surroundings: sibling parts and background.
    """

    inside: tuple[Tensor, ...]
    around: tuple[Tensor, ...]


def spaces(features: ImageFeatures) -> tuple[Tensor, ...]:
    """Returns unit-length cell maps: SAM embedding, semantic and global tokens, (M, D, g, g)."""
    maps = (
        features.mask.embedding,
        as_grid(features.semantic_tokens),
        as_grid(features.global_tokens),
    )
    return tuple(functional.normalize(cells.float(), dim=1) for cells in maps)


def prototypes(features: ImageFeatures, image: Tensor, shares: Tensor) -> ExemplarPrototypes:
    """Pools the cells inside and around n outlines.

    Args:
        features: of M images.
        image: (n,) int64, the image of each outline.
        shares: (n, L, L) in [0, 1], share of each cell of the padded square inside the outline.
    """
    grid = features.mask.embedding.shape[-1]
    wide = functional.max_pool2d(
        functional.adaptive_avg_pool2d(shares[:, None].float(), grid), 2 * _RING + 1, 1, _RING
    )
    inside: list[Tensor] = []
    around: list[Tensor] = []
    for cells in spaces(features):
        inner = functional.adaptive_avg_pool2d(shares[:, None].float(), cells.shape[-1])
        ring = (functional.adaptive_avg_pool2d(wide, cells.shape[-1]) - inner).clamp(min=0.0)
        for weights, means in ((inner, inside), (ring, around)):
            total = (cells[image] * weights).sum((2, 3))
            means.append(functional.normalize(total, dim=1))
    return ExemplarPrototypes(tuple(inside), tuple(around))


def similarities(features: ImageFeatures, image: Tensor, wanted: ExemplarPrototypes) -> Tensor:
    """Cosine similarity of every cell to each part and to its surroundings.

    Args:
        features: of M images.
        image: (n,) int64, the image to search.
        wanted: of n parts.

    Returns:
        (n, 6, G, G) in [-1, 1]: part and surroundings in each of the three spaces.
    """
    grid = features.mask.embedding.shape[-1]
    maps: list[Tensor] = []
    for cells, part, rest in zip(spaces(features), wanted.inside, wanted.around, strict=True):
        for prototype in (part, rest):
            cosine = torch.einsum("ndhw,nd->nhw", cells[image], prototype)[:, None]
            if cosine.shape[-1] != grid:
                cosine = functional.interpolate(
                    cosine, size=(grid, grid), mode="bilinear", align_corners=False
                )
            maps.append(cosine)
    return torch.cat(maps, 1)


class ExemplarPrompt(nn.Module):
    """Sparse and dense prompts for the same part in another image, and its presence."""

    def __init__(self, config: CalicoConfig) -> None:
        super().__init__()
        width = config.mask.prompt_width
        semantic = config.dino.width if config.ablation.use_dino else config.eva.width
        described = 2 * (width + semantic + config.eva.width)
        self.describe = nn.Sequential(
            nn.Linear(described, 2 * width), nn.GELU(), nn.Linear(2 * width, TOKENS * width)
        )
        self.ask = nn.Linear(width, _HEADS * _HEAD_WIDTH, bias=False)
        self.offer = nn.Conv2d(width, _HEADS * _HEAD_WIDTH, 1, bias=False)
        maps = 2 * (_SPACES + _HEADS)
        self.mix = nn.Sequential(
            nn.Conv2d(maps, _HIDDEN, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(_HIDDEN, width, 3, padding=1),
        )
        self.presence = nn.Sequential(
            nn.Linear(3 * maps, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, 1)
        )
        self.reset()

    def reset(self) -> None:
        """Zeroes the last layer of the dense prompt."""
        last = cast(nn.Conv2d, self.mix[-1])
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)

    def forward(
        self, features: ImageFeatures, image: Tensor, wanted: ExemplarPrototypes
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Makes the prompts for n parts in n images.

        Args:
            features: of M images.
            image: (n,) int64, the image to search.
            wanted: of n parts.

        Returns:
            Sparse prompts (n, 2, C), the addition to the dense prompt (n, C, G, G), and the log
            odds (n,) that the part is present.
        """
        sparse = self.describe(torch.cat((*wanted.inside, *wanted.around), 1))
        alike = torch.cat(
            (similarities(features, image, wanted), self._learned(features, image, wanted)), 1
        )  # (n, 2 (3 + heads), G, G)
        flat = alike.flatten(2)
        summary = torch.cat((flat.amax(2), flat.mean(2), flat.std(2)), 1)
        presence = self.presence(summary)[:, 0]
        return sparse.unflatten(1, (TOKENS, -1)), self.mix(alike), presence

    def _learned(
        self, features: ImageFeatures, image: Tensor, wanted: ExemplarPrototypes
    ) -> Tensor:
        """Cosines in subspaces of the SAM embedding, one per head: (n, 2 heads, G, G)."""
        cells = functional.normalize(features.mask.embedding.float(), dim=1)
        offered = self.offer(cells)[image].unflatten(1, (_HEADS, _HEAD_WIDTH))  # (n, 8, 16, G, G)
        offered = functional.normalize(offered, dim=2)
        cosines = [
            torch.einsum(
                "nkdhw,nkd->nkhw",
                offered,
                functional.normalize(self.ask(part[0]).unflatten(1, (_HEADS, _HEAD_WIDTH)), dim=2),
            )
            for part in (wanted.inside, wanted.around)
        ]
        return torch.cat(cosines, 1)
