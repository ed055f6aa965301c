"""The dense head: classifies every cell of an image as one of a project's names.

[SEG] masks follow from words: a part gets no mask until the language model knows its name. The
dense head does not need the language model. It is a small U-Net (Ronneberger et al. 2015) on the
photo trunk's maps, with one row (class embedding) per name. Every project trains its own from the
start, in half a minute of one core: the trunk was trained on a million photographs, so the rest can
be small. Without rows the head predicts nothing.
Legend: M images, L logit side (a quarter of the photo trunk's side), W width of a cell.
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
from calico_model.modeling.photo_trunk import widths_of

WIDTH = 32
"""W, channels of a cell embedding."""
_WIDTHS = (WIDTH, 48, 64, 96)  # at L, L/2, L/4, L/8
_NORM_GROUPS = 8
_PLACE_CHANNELS, _RELATIVE_CHANNELS = 5, 7
_LEAST_SPREAD = 0.05  # of an image: positions inside a thinner object mean nothing


@dataclass(frozen=True)
class DenseNames:
    """Class names of a dense head.

    A cell is one of the parts or none, and one of the objects or none.

    Attributes:
        parts, objects: names in normal form.
    """

    parts: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Number of rows: one per name, and one for "none" among parts and among objects."""
        return len(self.parts) + len(self.objects) + 2 if self else 0

    def __bool__(self) -> bool:
        return bool(self.parts or self.objects)


@dataclass(frozen=True, eq=False)
class ObjectClassifier:
    """Classifies whole objects by the mean of the photo trunk's deepest map inside them.

    Ridge regression on unit vectors, in closed form: a handful of images is enough to fit it.
    Images of one group are classified together.

    Attributes:
        mean, scale: (D,) of the training vectors.
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
    """The class rows of one adapter, and their statistics.

    Attributes:
        names: of the rows.
        rows: (rows, W) class embeddings.
        pairs: (parts, parts) number of corrected images that show two parts together; on the
            diagonal, that show one part.
        trust: in [0, 1], how well the rows reproduce their training masks.
        classifier: of the objects' names; None where there are fewer than two.
        shift: log odds to add to the confidence of parts, and of objects. It corrects for training
            time: the longer a head trains, the more confident it is of its errors, too.
    """

    names: DenseNames
    rows: Tensor
    pairs: Tensor
    trust: float
    classifier: ObjectClassifier | None = None
    shift: tuple[float, float] = (0.0, 0.0)


_NOTHING = DenseRows(DenseNames(), torch.zeros(0, WIDTH), torch.zeros(0, 0), 0.0)


class DenseResidual(nn.Module):
    """Residual block of two 3x3 convolutions with group norm."""

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
    """Output of the dense head's body for M images.

    Attributes:
        cells: (M, W, L, L) cell embeddings, or (M, W, L/2, L/2) coarse ones.
        inside: (M, 1, L/2, L/2) logits of being inside any named thing.
    """

    cells: Tensor
    inside: Tensor


class DenseHead(nn.Module):
    """A U-Net from the photo trunk's maps to cell embeddings, and class rows over them.

    Attributes:
        first: (2, W) initial rows, of "none" and of a new name.
        active: the rows of the active adapter; none of them at first.
    """

    def __init__(self, config: CalicoConfig) -> None:
        """Builds an untrained head without rows.

        Raises:
            InvalidConfigError: the model has no photo trunk.
        """
        super().__init__()
        if config.photo_trunk is None:
            raise InvalidConfigError("photo_trunk: the dense head needs one, got none")
        self.inputs = widths_of(config.photo_trunk)
        """Channels of the photo trunk's maps at L, L/2, L/4 and L/8."""
        self.read = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, 1), nn.GroupNorm(_NORM_GROUPS, width))
            for channels, width in zip(self.inputs, _WIDTHS, strict=True)
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
        self.active = _NOTHING

    def activate(self, rows: DenseRows) -> None:
        """Makes the rows of an adapter the active ones."""
        self.active = rows

    def deactivate(self) -> None:
        """Removes the active rows."""
        self.active = _NOTHING

    def forward(self, levels: Sequence[Tensor], *, coarse: bool = False) -> Cells:
        """Computes cell embeddings.

        Args:
            levels: `ImageFeatures.photo`; coarse cells do not need the first.
            coarse: whether to stop at half the side, at a third of the cost.
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

    def class_logits(self, features: ImageFeatures) -> tuple[Tensor, Tensor]:
        """Classifies every cell with the active rows.

        Returns:
            Logits (M, 1 + parts, L, L) and (M, 1 + objects, L, L); channel 0 is "none".
        """
        levels = [level.to(self.first) for level in features.photo]
        cells = self(levels).cells.float()
        logits = torch.einsum("rw,mwij->mrij", self.active.rows.to(cells), cells)
        return split(logits, self.active.names)


def split(logits: Tensor, names: DenseNames) -> tuple[Tensor, Tensor]:
    """Splits (M, rows, L, L) logits into those of the parts and those of the objects."""
    parts = 1 + len(names.parts)
    return logits[:, :parts], logits[:, parts:]


def pooled(deepest: Tensor, inside: Tensor) -> Tensor:
    """Mean of the deepest map over weighted cells.

    Args:
        deepest: (M, D, L/8, L/8).
        inside: (M, L, L) weight of each cell; where all weights are 0, all cells count alike.

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
    """Vertical and horizontal positions (H, W) of the cells' centres, from -1 to 1."""
    down, across = (
        (torch.arange(size, device=like.device, dtype=torch.float32) + 0.5) / size * 2 - 1
        for size in like.shape[-2:]
    )
    y, x = torch.meshgrid(down, across, indexing="ij")
    return y, x


def _places(like: Tensor) -> Tensor:
    """Position of each cell in its image: (1, 5, H, W)."""
    y, x = _grid(like)
    return torch.stack((y, x, x.abs(), y**2, x**2))[None].to(like)


def _relative_places(inside: Tensor) -> Tensor:
    """Position of each cell in the object that (M, 1, H, W) logits show: (M, 7, H, W).

    Position and size relative to the object identify a part as much as its appearance does. No
    gradient flows through them.
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
    channels = (down, across, across.abs(), down**2, across**2, aspect, share)
    return torch.cat(channels, 1).clamp(-4, 4).to(inside)
