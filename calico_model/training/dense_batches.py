"""Images with the name of every cell, as the dense head learns from them.

Legend: n images, L logit side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calico_model.images import mask_shares
from calico_model.modeling.dense_head import DenseNames, split
from calico_model.training.example import Example
from calico_model.types import PartMask, RegionKind
from calico_model.vocabulary import normalise

_PARTS = frozenset({RegionKind.COMMON_PART, RegionKind.UNIQUE_PART})
_OBJECT_WEIGHT = 0.5
_CHANCES = (0.5, 0.3, 0.3)  # that a batch is mirrored across, down, and along its diagonal
_LEAST_CELLS = 0.5
_PIXELS_PER_CELL = 4  # of the frame that masks are brought to, as in SAM


@dataclass(frozen=True)
class DenseBatch:
    """Images with the truth of every cell.

    Attributes:
        levels: see `DenseHead.levels`.
        parts: (n, 1 + parts, L, L) share of each cell, of what has no name first.
        objects: (n, 1 + objects, L, L) likewise.
        knows: (n, 2) float, 1 where all parts, and all objects, of an image are known.
    """

    levels: list[Tensor]
    parts: Tensor
    objects: Tensor
    knows: Tensor


def varied(
    batch: DenseBatch, generator: torch.Generator, *, unseen: float, mirrors: bool
) -> DenseBatch:
    """Hides some maps of some images, and turns and mirrors the batch.

    Args:
        batch: to vary.
        generator: source of all choices, on the CPU.
        unseen: chance that an image is shown without one of its maps.
        mirrors: whether left may become right.
    """
    levels = []
    for seen in batch.levels:
        kept = torch.rand(len(seen), generator=generator) >= unseen
        levels.append(seen * kept[:, None, None, None].to(seen))
    drawn = torch.rand(3, generator=generator) < torch.tensor(_CHANCES)
    across, down, turned = (drawn & mirrors).tolist()

    def vary(values: Tensor) -> Tensor:
        values = values.flip(-1) if across else values
        values = values.flip(-2) if down else values
        return values.transpose(-1, -2) if turned else values

    return DenseBatch(
        [vary(one) for one in levels], vary(batch.parts), vary(batch.objects), batch.knows
    )


def dense_loss(logits: Tensor, batch: DenseBatch, names: DenseNames) -> tuple[Tensor, float]:
    """Cross-entropy of cells, and dice of the names an image shows.

    Args:
        logits: (n, rows, L, L).
        batch: the truth.
        names: of the rows.

    Returns:
        The loss, and the mean soft overlap of these names in [0, 1].
    """
    total = logits.new_zeros(())
    overlaps: list[Tensor] = []
    parts, objects = split(logits, names)
    told = ((parts, batch.parts, 1.0), (objects, batch.objects, _OBJECT_WEIGHT))
    for layer, (own, truth, weight) in enumerate(told):
        if own.shape[1] < 2:
            continue
        knows = batch.knows[:, layer]
        cross = -(truth * own.log_softmax(1)).sum(1).mean((1, 2))
        chance = own.softmax(1)[:, 1:]
        wanted = truth[:, 1:]
        overlap = 2 * (chance * wanted).sum((2, 3)) + 1
        dice = 1 - overlap / ((chance + wanted).sum((2, 3)) + 1)
        is_shown = (wanted.sum((2, 3)) > _LEAST_CELLS) * knows[:, None]
        overlaps.append(1 - dice.detach()[is_shown > 0])
        total = total + weight * (cross * knows).sum() / knows.sum().clamp(min=1)
        total = total + weight * (dice * is_shown).sum() / is_shown.sum().clamp(min=1)
    every = torch.cat(overlaps) if overlaps else logits.new_zeros(0)
    return total, float(every.mean()) if len(every) else 0.0


def knows_parts(example: Example) -> bool:
    """Whether what is not drawn as a part is none."""
    return example.known >= _PARTS


def knows_objects(example: Example) -> bool:
    """Whether what is not drawn as an object is none."""
    return RegionKind.COMMON_OBJECT in example.known


def parts_of(example: Example, image: int) -> list[PartMask]:
    """The true parts of one image."""
    here = [one for one in example.truth if one.image_index == image]
    return [one for one in here if one.kind is not RegionKind.COMMON_OBJECT]


def objects_of(example: Example, image: int) -> list[PartMask]:
    """The common objects of one image and the one whose parts are compared, named."""
    here = [one for one in example.truth if one.image_index == image]
    found = [one for one in here if one.kind is RegionKind.COMMON_OBJECT]
    compared = example.objects[image]
    named = {normalise(one.label) for one in found}
    if compared is not None and normalise(compared.label) not in named:
        found.append(PartMask(image, RegionKind.COMMON_OBJECT, compared.label, compared.mask))
    return found


def cell_shares(regions: Sequence[PartMask], names: Sequence[str], cells: int) -> Tensor:
    """Draws regions as cells.

    Args:
        regions: of one image; those with other names are left out.
        names: normal forms, one per row.
        cells: L.

    Returns:
        (1 + names, L, L) bfloat16 share of each cell, of what has no name first.
    """
    shares = torch.zeros(1 + len(names), cells, cells)
    rows = {name: row for row, name in enumerate(names, start=1)}
    for one in regions:
        row = rows.get(normalise(one.label))
        if row is not None:
            shares[row] += mask_shares(one.mask, _PIXELS_PER_CELL * cells, cells)
    named = shares.sum(0)
    shares[0] = (1 - named).clamp(min=0)
    return (shares / (shares[0] + named)).to(torch.bfloat16)
