"""Several parts of one name as distinct regions: one at a time, each remembering the ones before.

What [SEG] draws for "leg" is all legs. A spot in the middle of what is not yet outlined asks for
one of them; the mask memory knows which are done. Works on cached features alone.
Legend: L logit side, C prompt width, T prompt tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calico_model.features import ImageFeatures
from calico_model.modeling.mask_memory import SPOT_RADIUS, History, Source
from calico_model.modeling.mask_prompt import bounded, from_shares
from calico_model.modeling.model import Calico

MOST = 8
"""Regions of one name and image at most."""
_LEAST_CELLS, _LEAST_SHARE = 3, 0.15


@dataclass(frozen=True, eq=False)
class Piece:
    """One of several alike parts.

    Attributes:
        logits: (L, L), nowhere above zero where an earlier one is.
        iou: predicted IoU in [0, 1].
    """

    logits: Tensor
    iou: float


def middle(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Returns row and column, in cells, of the place deepest inside an (H, W) mask."""
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = divmod(int(depth.argmax()), mask.shape[1])
    return row + 0.5, column + 0.5


def spot(row: float, column: float, side: int) -> Tensor:
    """Returns (L, L) logits of a small disc: where the part is that is asked for."""
    axis = torch.arange(side, dtype=torch.float32) + 0.5
    near = (axis[:, None] - row) ** 2 + (axis[None] - column) ** 2 <= SPOT_RADIUS**2
    return from_shares(near.float())


@torch.inference_mode()
def separate(
    model: Calico,
    features: ImageFeatures,
    image: int,
    sparse: Tensor,
    *,
    dense: Tensor | None = None,
    approved: Sequence[Tensor] = (),
    most: int | None = None,
    remembers: bool = True,
) -> tuple[Piece, ...]:
    """Outlines the parts a prompt stands for one after the other.

    Args:
        model: with a mask memory; without one the prompt's whole mask is the only piece.
        features: of the group's images.
        image: which of them.
        sparse: (T, C) prompt.
        dense: (C, G, G) of the prompt, or None for SAM's no-mask embedding.
        approved: (L, L) shares in [0, 1] of parts of that name that are outlined already.
        most: pieces wanted; None is all.
        remembers: False leaves a mask memory out.

    Returns:
        The other ones, largest remainder first; they do not overlap.
    """
    decoder, memory = model.mask_decoder, model.mask_memory
    at = torch.tensor([image], device=sparse.device)
    none = decoder.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    plain = none if dense is None else dense[None]
    logits, iou = decoder(features.mask, at, sparse[None], plain)
    whole = logits[0, 0]
    if memory is None or not remembers:
        return (Piece(whole, float(iou[0, 0].clamp(0, 1))),)
    remembered = [(from_shares(shares.to(whole)), Source.APPROVED) for shares in approved]
    todo = whole > 0
    for mask, _ in remembered:
        todo &= mask <= 0
    first_area, found = 0, list[Piece]()
    limit = MOST - len(approved) if most is None else most
    while len(found) < limit and (seed := _largest(todo)) is not None:
        area = int(seed.sum())
        if area < max(_LEAST_CELLS, _LEAST_SHARE * first_area):
            break
        first_area = max(first_area, area)
        sought = spot(*middle(seed), whole.shape[-1]).to(whole)
        history = _history([*remembered, (sought, Source.SOUGHT)], sparse.mean(0))
        logits, iou = decoder(features.mask, at, sparse[None], plain + memory(history))
        piece = logits[0, 0]
        for mask, _ in remembered:
            piece = torch.where(mask > 0, piece.clamp(max=-1e-3), piece)
        done = piece > 0
        if int(done.sum()) >= _LEAST_CELLS:
            found.append(Piece(piece, float(iou[0, 0].clamp(0, 1))))
            remembered.append((bounded(piece), Source.PREDICTED))
        # The disc itself too, so that a spot that leads nowhere is not asked about for ever.
        todo &= ~done & (sought <= 0)
    return tuple(found)


def _largest(mask: Tensor) -> NDArray[np.bool_] | None:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.cpu().numpy().astype(np.uint8))
    if count < 2:
        return None
    largest: NDArray[np.bool_] = labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    return largest


def _history(remembered: Sequence[tuple[Tensor, Source]], query: Tensor) -> History:
    masks = torch.stack([mask for mask, _ in remembered])
    source = torch.tensor([int(kind) for _, kind in remembered], device=masks.device)
    return History(
        masks[None],
        query.expand(1, len(masks), -1),
        source[None],
        torch.ones(1, len(masks), dtype=torch.bool, device=masks.device),
    )
