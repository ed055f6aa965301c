"""The dense head: which of a project's names every cell of an image belongs to.

[SEG] masks follow from words, so a part that nobody ever named has none until the language model
knows its name. This small U-Net (Ronneberger et al. 2015) reads frozen features alone and has one
row per name: it learns new names and new looks from a handful of corrected images in seconds. The
weights ship its body; the rows are an adapter's. Without rows it says nothing.
Legend: M images, C prompt width, G embedding grid, L = 4 G logit side, W width of a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from calico_model.config import CalicoConfig
from calico_model.features import ImageFeatures
from calico_model.modeling.mask_refiner import Residual, convolution, last_channels
from calico_model.modeling.region_head import as_grid

WIDTH = 48
"""W."""
_WIDTHS = (WIDTH, 64, 96, 96)  # at L, L/2, L/4 = G, L/8


@dataclass(frozen=True)
class DenseNames:
    """What the rows of a dense head are called. A cell is one of the parts or none of them, and
    one of the objects or none.

    Attributes:
        parts, objects: normal forms.
    """

    parts: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows there are: one per name, and one for what has none in each of the two."""
        return len(self.parts) + len(self.objects) + 2 if self else 0

    def __bool__(self) -> bool:
        return bool(self.parts or self.objects)


class DenseHead(nn.Module):
    """Features to cells, and cells to names.

    Attributes:
        first: (2, W) where the row of what has no name begins, and the row of a new name.
        names: of the rows that are worn now.
        pairs: (parts, parts) corrected images that show two parts together, of what is worn.
        trust: in [0, 1], how well the rows have learned what they were taught.
    """

    def __init__(self, config: CalicoConfig) -> None:
        """Builds one without rows."""
        super().__init__()
        semantic = config.dino.width if config.ablation.use_dino else config.eva.width
        prompt = config.mask.prompt_width
        has_fine = config.mask.high_resolution and config.trunk is not None
        fine = (prompt // 8, prompt // 4) if has_fine else (prompt, prompt)
        self.inputs = (*fine, prompt, config.eva.width + semantic)
        """Channels that are read at L, L/2, L/4 and L/8."""
        for level, width in enumerate(self.inputs):
            self.register_buffer(f"mean_{level}", torch.zeros(width))
            self.register_buffer(f"deviation_{level}", torch.ones(width))
        self.stem = convolution(self.inputs[0], WIDTH)
        self.read = nn.ModuleList(
            nn.Conv2d(seen, width, 1)
            for seen, width in zip(self.inputs[1:], _WIDTHS[1:], strict=True)
        )
        self.shrink = nn.ModuleList(
            convolution(wide, narrow, stride=2) for wide, narrow in pairwise(_WIDTHS)
        )
        self.down = nn.ModuleList(Residual(width) for width in (*_WIDTHS, _WIDTHS[-1]))
        self.narrow = nn.ModuleList(nn.Conv2d(deep, width, 1) for width, deep in pairwise(_WIDTHS))
        self.up = nn.ModuleList(Residual(width) for width in _WIDTHS[:-1])
        self.first = nn.Parameter(torch.zeros(2, WIDTH))
        last_channels(self)
        self.names = DenseNames()
        self.pairs = torch.zeros(0, 0)
        self.trust = 0.0
        self._rows = torch.zeros(0, WIDTH)

    def wear(self, names: DenseNames, rows: Tensor, pairs: Tensor, trust: float) -> None:
        """Puts rows on: (rows, W); the others as above."""
        self.names, self._rows, self.pairs, self.trust = names, rows, pairs, trust

    def bare(self) -> None:
        """Takes them off."""
        self.wear(DenseNames(), torch.zeros(0, WIDTH), torch.zeros(0, 0), 0.0)

    def levels(self, features: ImageFeatures) -> list[Tensor]:
        """Returns what is read of M images, standardised: (M, inputs[k], L / 2^k, L / 2^k)."""
        embedding = features.mask.embedding.float()
        grid = embedding.shape[-1]
        fine = [one.float() for one in reversed(features.mask.fine)]
        tokens = [
            as_grid(one).float() for one in (features.semantic_tokens, features.global_tokens)
        ]
        deepest = torch.cat([_resized(one, grid // 2) for one in tokens], dim=1)
        found = [*(fine or [embedding, embedding]), embedding, deepest]
        return [
            _resized(self._standardised(one, level), (4 * grid) >> level)
            for level, one in enumerate(found)
        ]

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Returns the cells (M, W, L, L) of `levels`."""
        x = self.down[0](self.stem(levels[0].contiguous(memory_format=torch.channels_last)))
        kept = [x]
        for level, seen in enumerate(levels[1:]):
            x = self.down[level + 1](self.shrink[level](x) + self.read[level](seen))
            kept.append(x)
        x = self.down[-1](kept.pop())
        for level in reversed(range(len(self.up))):
            wide = functional.interpolate(self.narrow[level](x), scale_factor=2, mode="nearest")
            x = self.up[level](kept[level] + wide)
        return cast(Tensor, x)

    def tell(self, features: ImageFeatures) -> tuple[Tensor, Tensor]:
        """Asks the rows that are worn.

        Returns:
            Logits (M, 1 + parts, L, L) and (M, 1 + objects, L, L), of what has no name first.
        """
        cells = self(self.levels(features)).float()
        return split(torch.einsum("rw,mwij->mrij", self._rows.to(cells), cells), self.names)

    @torch.no_grad()
    def standardise(self, levels: Sequence[Tensor]) -> None:
        """Measures what is usual, on (M, inputs[k], ., .) as they are before it."""
        for level, seen in enumerate(levels):
            flat = seen.float().transpose(0, 1).flatten(1)
            getattr(self, f"mean_{level}").copy_(flat.mean(1))
            getattr(self, f"deviation_{level}").copy_(flat.std(1) + 1e-5)

    def _standardised(self, seen: Tensor, level: int) -> Tensor:
        mean: Tensor = getattr(self, f"mean_{level}")
        deviation: Tensor = getattr(self, f"deviation_{level}")
        return (seen - mean[:, None, None]) / deviation[:, None, None]


def split(logits: Tensor, names: DenseNames) -> tuple[Tensor, Tensor]:
    """Parts' and objects' shares of (M, rows, L, L) logits."""
    parts = 1 + len(names.parts)
    return logits[:, :parts], logits[:, parts:]


def _resized(values: Tensor, side: int) -> Tensor:
    if values.shape[-1] == side:
        return values
    return functional.interpolate(values, size=(side, side), mode="bilinear", align_corners=False)
