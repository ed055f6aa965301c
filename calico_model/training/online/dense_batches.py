"""Batches and loss of the dense head: cells, their truth, and the weight of each.

Legend: n images, L logit side; coarse cells have half of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from calico_model.modeling.dense_head import Cells, DenseNames, split
from calico_model.training.online.example import DenseImage

_OBJECT_WEIGHT, _INSIDE_WEIGHT = 0.5, 0.5
_UNLABELLED = 0.1
"""Weight of a cell of an object without a part's name: lists of parts are seldom complete."""


@dataclass(frozen=True)
class DenseBatch:
    """Images with the truth of every cell.

    Attributes:
        levels: see `DenseHead.forward`.
        parts: (n, L, L) int64 row of each cell among the parts, 0 for none.
        objects: (n, L, L) likewise.
        weights: (n, L, L) weight of each cell in the loss of parts.
        knows: (n, 2) float, 1 where all parts, and all objects, of an image are known.
    """

    levels: list[Tensor]
    parts: Tensor
    objects: Tensor
    weights: Tensor
    knows: Tensor


def collate_dense(
    images: Sequence[DenseImage], names: DenseNames, device: torch.device, *, coarse: bool
) -> DenseBatch:
    """Stacks images; coarse takes every second cell and leaves the finest maps out."""
    parts = torch.stack([_rows(i.parts, i.part_names, names.parts) for i in images])
    objects = torch.stack([_rows(i.objects, i.object_names, names.objects) for i in images])
    if coarse:
        parts, objects = parts[:, ::2, ::2], objects[:, ::2, ::2]
    knows = torch.tensor([[float(i.knows_parts), float(i.knows_objects)] for i in images])
    is_unlabelled = (parts == 0) & (objects > 0)
    weights = torch.where(is_unlabelled, _UNLABELLED, 1.0)
    levels = [
        torch.zeros(0) if coarse and level == 0 else torch.stack(maps).float()
        for level, maps in enumerate(zip(*(i.maps for i in images), strict=True))
    ]
    return DenseBatch(
        [
            maps.to(device).contiguous(memory_format=torch.channels_last)
            if maps.ndim == 4
            else maps
            for maps in levels
        ],
        parts.to(device),
        objects.to(device),
        weights.to(device),
        knows.to(device),
    )


def dense_loss(
    cells: Cells, rows: Tensor, batch: DenseBatch, names: DenseNames
) -> tuple[Tensor, float]:
    """Cross-entropy of cells and dice of the names a batch shows, of parts and of objects.

    Args:
        cells: output of the dense head for the batch.
        rows: (rows, W).
        batch: the truth.
        names: of the rows.

    Returns:
        The loss, and the mean soft overlap of the names the batch shows, in [0, 1].
    """
    logits = torch.einsum("rw,nwij->nrij", rows, cells.cells.float())
    parts, objects = split(logits, names)
    total = logits.new_zeros(())
    overlaps: list[Tensor] = []
    layers = (
        (parts, batch.parts, batch.weights, 1.0),
        (objects, batch.objects, torch.ones_like(batch.weights), _OBJECT_WEIGHT),
    )
    for layer, (scores, truth, weights, share) in enumerate(layers):
        if scores.shape[1] < 2:
            continue
        weights = weights * batch.knows[:, layer, None, None]
        cross = functional.cross_entropy(scores, truth, reduction="none")
        total = total + share * (cross * weights).sum() / weights.sum().clamp(min=1)
        chance = scores.softmax(1)[:, 1:] * weights[:, None]
        wanted = functional.one_hot(truth, scores.shape[1]).movedim(-1, 1)[:, 1:] * weights[:, None]
        is_shown = wanted.sum((0, 2, 3)) > 0
        overlap = 2 * (chance * wanted).sum((0, 2, 3)) + 1
        dice = 1 - overlap / ((chance + wanted).sum((0, 2, 3)) + 1)
        if bool(is_shown.any()):
            overlaps.append(1 - dice.detach()[is_shown])
            total = total + share * dice[is_shown].mean()
    total = total + _INSIDE_WEIGHT * _inside_loss(cells.inside, batch)
    every = torch.cat(overlaps) if overlaps else logits.new_zeros(0)
    return total, float(every.mean()) if len(every) else 0.0


def _inside_loss(inside: Tensor, batch: DenseBatch) -> Tensor:
    """Cross-entropy of (n, 1, L/2, L/2) logits that a cell belongs to any named region."""
    truth = ((batch.parts > 0) | (batch.objects > 0)).float()[:, None]
    if truth.shape[-1] != inside.shape[-1]:
        truth = functional.avg_pool2d(truth, truth.shape[-1] // inside.shape[-1])
    return functional.binary_cross_entropy_with_logits(inside.float(), truth)


def _rows(codes: Tensor, image_names: Sequence[str], names: Sequence[str]) -> Tensor:
    """(L, L) codes of the names of an image as rows of all names."""
    rows = torch.tensor([0, *(1 + names.index(name) for name in image_names)])
    return rows[codes.long()]
