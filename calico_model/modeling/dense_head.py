"""The dense head: which of a project's names every cell of an image belongs to.

[SEG] masks follow from words, so a part that nobody ever named has none until the language model
knows its name. This small U-Net (Ronneberger et al. 2015) reads the photo trunk's maps alone and
has one row per name. Every project learns it from its own beginning, in half a minute of one core:
the trunk has seen a million photographs, so the rest may be small. Without rows it says nothing.
Legend: M images, L logit side, a quarter of the photo trunk's, W width of a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from calico_model.config import CalicoConfig
from calico_model.errors import InvalidConfigError
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.mask_refiner import last_channels
from calico_model.modeling.photo_trunk import kind_of

WIDTH = 32
"""W."""
_WIDTHS = (WIDTH, 48, 64, 96)  # at L, L/2, L/4, L/8
_NORM_GROUPS = 8
_PLACE_CHANNELS, _RELATIVE_CHANNELS = 5, 7
_LEAST_SPREAD = 0.05  # of an image: a thinner thing has no place inside itself


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


@dataclass(frozen=True, eq=False)
class ObjectClassifier:
    """Names whole objects by the mean of the photo trunk's deepest map inside them.

    Ridge regression on unit vectors, in closed form: a handful of images is enough, and images of
    one group are asked together.

    Attributes:
        mean, scale: (D,) of the vectors it learned from.
        weight: (objects, D).
        bias: (objects,).
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def scores(self, vectors: Tensor) -> Tensor:
        """Maps (M, D) vectors to (M, objects) scores, about 1 for the right name and 0 else."""
        unit = functional.normalize((vectors - self.mean) / self.scale, dim=1)
        return unit @ self.weight.T + self.bias


@dataclass(frozen=True, eq=False)
class DenseRows:
    """What an adapter brings for the dense head beside its body.

    Attributes:
        names: of the rows.
        rows: (rows, W).
        pairs: (parts, parts) corrected images that show two parts together; on the diagonal those
            that show one.
        trust: in [0, 1], how well the rows have learned what they were taught.
        classifier: of the objects' names, None where there is nothing to tell apart.
        shift: log odds by which its parts, and objects, are right more often than what other heads
            are as sure of: the longer a head learns, the surer it is also of what is wrong.
    """

    names: DenseNames
    rows: Tensor
    pairs: Tensor
    trust: float
    classifier: ObjectClassifier | None = None
    shift: tuple[float, float] = (0.0, 0.0)


_NOTHING = DenseRows(DenseNames(), torch.zeros(0, WIDTH), torch.zeros(0, 0), 0.0)


class DenseResidual(nn.Module):
    """Two normalised convolutions around an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(_NORM_GROUPS, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(_NORM_GROUPS, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (M, width, H, W) to the same shape."""
        return functional.relu(x + self.body(x))


@dataclass(frozen=True, eq=False)
class Cells:
    """What the head makes of M images.

    Attributes:
        cells: (M, W, L, L), or (M, W, L/2, L/2) where coarse cells were asked for.
        inside: (M, 1, L/2, L/2) logits of being inside any named thing.
    """

    cells: Tensor
    inside: Tensor


class DenseHead(nn.Module):
    """Features to cells, and cells to names.

    Attributes:
        first: (2, W) where the row of what has no name begins, and the row of a new name.
        worn: what an adapter has put on.
    """

    def __init__(self, config: CalicoConfig) -> None:
        """Builds one without rows.

        Raises:
            InvalidConfigError: the model has no photo trunk.
        """
        super().__init__()
        if config.photo_trunk is None:
            raise InvalidConfigError("photo_trunk: the dense head needs one, got none")
        self.inputs = kind_of(config.photo_trunk.kind).widths
        """Channels that are read at L, L/2, L/4 and L/8."""
        self.read = nn.ModuleList(
            nn.Sequential(nn.Conv2d(seen, width, 1), nn.GroupNorm(_NORM_GROUPS, width))
            for seen, width in zip(self.inputs, _WIDTHS, strict=True)
        )
        self.whole = nn.Linear(self.inputs[-1], _WIDTHS[-1])
        self.place = nn.Conv2d(_PLACE_CHANNELS, _WIDTHS[-1], 1)
        self.lift = nn.ModuleList(
            nn.Conv2d(deep, width, 1) for width, deep in zip(_WIDTHS, _WIDTHS[1:], strict=False)
        )
        self.mix = nn.ModuleList(DenseResidual(width) for width in _WIDTHS[1:])
        self.inside = nn.Conv2d(_WIDTHS[1], 1, 1)
        self.relative = nn.Conv2d(_RELATIVE_CHANNELS, _WIDTHS[1], 1)
        self.coarse = nn.Conv2d(_WIDTHS[1], WIDTH, 1)
        self.fine = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.GroupNorm(_NORM_GROUPS, WIDTH), nn.ReLU()
        )
        self.first = nn.Parameter(torch.randn(2, WIDTH) * WIDTH**-0.5)
        last_channels(self)
        self.worn = _NOTHING

    def activate(self, rows: DenseRows) -> None:
        """Puts the rows of an adapter on."""
        self.worn = rows

    def deactivate(self) -> None:
        """Removes the rows of an adapter."""
        self.worn = _NOTHING

    def forward(self, levels: Sequence[Tensor], *, coarse: bool = False) -> Cells:
        """Computes cells.

        Args:
            levels: `ImageFeatures.photo`; the first is not read for coarse cells.
            coarse: half the side, at a third of the cost.
        """
        deep = levels[3]
        x = self.read[3](deep) + self.whole(deep.mean((2, 3)))[..., None, None]
        x = self.mix[2](x + self.place(_places(deep)))
        x = self.mix[1](self.read[2](levels[2]) + _enlarged(self.lift[2](x), levels[2]))
        x = self.read[1](levels[1]) + _enlarged(self.lift[1](x), levels[1])
        inside = self.inside(x)
        x = self.mix[0](x + self.relative(_relative_places(inside)))
        if coarse:
            return Cells(self.coarse(x), inside)
        fine = self.fine(self.read[0](levels[0]) + _enlarged(self.lift[0](x), levels[0]))
        return Cells(_enlarged(self.coarse(x), levels[0]) + fine, inside)

    def tell(self, features: ImageFeatures) -> tuple[Tensor, Tensor]:
        """Asks the rows that are worn.

        Returns:
            Logits (M, 1 + parts, L, L) and (M, 1 + objects, L, L), of what has no name first.
        """
        levels = [one.to(self.first) for one in features.photo]
        cells = self(levels).cells.float()
        logits = torch.einsum("rw,mwij->mrij", self.worn.rows.to(cells), cells)
        return split(logits, self.worn.names)


def split(logits: Tensor, names: DenseNames) -> tuple[Tensor, Tensor]:
    """Parts' and objects' shares of (M, rows, L, L) logits."""
    parts = 1 + len(names.parts)
    return logits[:, :parts], logits[:, parts:]


def pooled(deepest: Tensor, inside: Tensor) -> Tensor:
    """Mean of the deepest map inside things.

    Args:
        deepest: (M, D, L/8, L/8).
        inside: (M, L, L) weight of each cell; where there is none, all cells count alike.

    Returns:
        (M, D) float32.
    """
    side = deepest.shape[-1]
    weight = functional.adaptive_avg_pool2d(inside[:, None].float(), side) + 1e-4
    return (deepest.float() * weight).sum((2, 3)) / weight.sum((2, 3))


def _enlarged(values: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(
        values, size=like.shape[-2:], mode="bilinear", align_corners=False
    )


def _grid(like: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns (H, W) of the middles of cells, from -1 to 1."""
    down, across = (
        (torch.arange(size, device=like.device, dtype=torch.float32) + 0.5) / size * 2 - 1
        for size in like.shape[-2:]
    )
    y, x = torch.meshgrid(down, across, indexing="ij")
    return y, x


def _places(like: Tensor) -> Tensor:
    """(1, 5, H, W): where a cell is in its image."""
    y, x = _grid(like)
    return torch.stack((y, x, x.abs(), y**2, x**2))[None].to(like)


def _relative_places(inside: Tensor) -> Tensor:
    """(M, 7, H, W): where a cell is in the thing that (M, 1, H, W) logits show.

    Position and size relative to the object say which part a cell is of as much as its look does;
    no gradient flows through them.
    """
    share = inside.detach().float().sigmoid()
    y, x = _grid(inside)
    total = share.sum((2, 3), keepdim=True) + 1e-3

    def spread_of(values: Tensor) -> tuple[Tensor, Tensor]:
        middle = (share * values).sum((2, 3), keepdim=True) / total
        variance = (share * (values - middle) ** 2).sum((2, 3), keepdim=True) / total
        return middle, variance.sqrt() + _LEAST_SPREAD

    (middle_y, tall), (middle_x, wide) = spread_of(y), spread_of(x)
    down, across = (y - middle_y) / (2 * tall), (x - middle_x) / (2 * wide)
    aspect = (tall / wide).log().expand_as(down)
    found = (down, across, across.abs(), down**2, across**2, aspect, share)
    return torch.cat(found, 1).clamp(-4, 4).to(inside)
