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


@dataclass(frozen=True, eq=False)
class Prompted:
    """One image and what is asked there.

    Attributes:
        image: which of the group.
        sparse: (T, C) prompt, of the same T in all that are asked together.
        dense: (C, G, G) of the prompt, or None for SAM's no-mask embedding.
        approved: (L, L) shares in [0, 1] of parts of that name that are outlined already.
        whole: (L, L) logits the prompt alone leads to, where they are known.
    """

    image: int
    sparse: Tensor
    dense: Tensor | None = None
    approved: tuple[Tensor, ...] = ()
    whole: Tensor | None = None


@torch.inference_mode()
def separate(
    model: Calico,
    features: ImageFeatures,
    asked: Sequence[Prompted],
    *,
    most: int | None = None,
    remembers: bool = True,
) -> list[tuple[Piece, ...]]:
    """Outlines the parts that prompts stand for one after the other, in all images at once.

    Args:
        model: with a mask memory; without one a prompt's whole mask is its only piece.
        features: of the group's images.
        asked: at least one.
        most: pieces wanted of each; None is all.
        remembers: False leaves a mask memory out.

    Returns:
        Per prompt the other ones, largest remainder first; they do not overlap.
    """
    decoder, memory = model.mask_decoder, model.mask_memory
    sparse = torch.stack([one.sparse for one in asked])
    at = torch.tensor([one.image for one in asked], device=sparse.device)
    none = decoder.prompt_encoder.no_mask_embed.weight.reshape(-1, 1, 1)
    side = features.mask.embedding.shape[-1]
    blank = none.expand(-1, side, side)
    plain = torch.stack([blank if one.dense is None else one.dense for one in asked])
    if memory is None or not remembers:
        logits, iou = decoder(features.mask, at, sparse, plain)
        quality = iou[:, 0].clamp(0, 1).tolist()
        return [(Piece(whole, own),) for whole, own in zip(logits[:, 0], quality, strict=True)]
    wholes = [one.whole for one in asked if one.whole is not None]
    if len(wholes) < len(asked):
        wholes = list(decoder(features.mask, at, sparse, plain)[0][:, 0])
    searches = [
        _Search(whole, one, MOST - len(one.approved) if most is None else most)
        for whole, one in zip(wholes, asked, strict=True)
    ]
    while open_ones := [n for n, one in enumerate(searches) if one.aim()]:
        rows = torch.tensor(open_ones, device=sparse.device)
        history = _history([searches[n].remembered for n in open_ones], sparse[rows].mean(1))
        drawn, iou = decoder(features.mask, at[rows], sparse[rows], plain[rows] + memory(history))
        for row, n in enumerate(open_ones):
            searches[n].take(drawn[row, 0], float(iou[row, 0].clamp(0, 1)))
    return [tuple(one.found) for one in searches]


class _Search:
    """What is found and what is left in one image."""

    def __init__(self, whole: Tensor, asked: Prompted, limit: int) -> None:
        self.found: list[Piece] = []
        self.remembered = [(from_shares(s.to(whole)), Source.APPROVED) for s in asked.approved]
        self._limit, self._first_area = limit, 0
        self._todo = whole > 0
        for mask, _ in self.remembered:
            self._todo &= mask <= 0

    def aim(self) -> bool:
        """Puts a spot where the next part is sought; False if there is none left."""
        seed = _largest(self._todo) if len(self.found) < self._limit else None
        if seed is None:
            return False
        area = int(seed.sum())
        if area < max(_LEAST_CELLS, _LEAST_SHARE * self._first_area):
            return False
        self._first_area = max(self._first_area, area)
        sought = spot(*middle(seed), seed.shape[-1]).to(self._todo.device)
        self.remembered.append((sought, Source.SOUGHT))
        return True

    def take(self, piece: Tensor, iou: float) -> None:
        """Keeps what was drawn for the spot, without what others have."""
        sought, _ = self.remembered.pop()
        for mask, _ in self.remembered:
            piece = torch.where(mask > 0, piece.clamp(max=-1e-3), piece)
        done = piece > 0
        if int(done.sum()) >= _LEAST_CELLS:
            self.found.append(Piece(piece, iou))
            self.remembered.append((bounded(piece), Source.PREDICTED))
        # The disc itself too, so that a spot that leads nowhere is not asked about for ever.
        self._todo &= ~done & (sought <= 0)


def _largest(mask: Tensor) -> NDArray[np.bool_] | None:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.cpu().numpy().astype(np.uint8))
    if count < 2:
        return None
    largest: NDArray[np.bool_] = labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    return largest


def _history(remembered: Sequence[Sequence[tuple[Tensor, Source]]], queries: Tensor) -> History:
    """Rows of different lengths side by side; `queries` (n, C)."""
    n, longest = len(remembered), max(map(len, remembered))
    like = remembered[0][0][0]
    masks = like.new_zeros(n, longest, *like.shape)
    source = torch.zeros(n, longest, dtype=torch.int64, device=like.device)
    is_there = torch.zeros(n, longest, dtype=torch.bool, device=like.device)
    for row, several in enumerate(remembered):
        masks[row, : len(several)] = torch.stack([mask for mask, _ in several])
        source[row, : len(several)] = torch.tensor([int(kind) for _, kind in several])
        is_there[row, : len(several)] = True
    return History(masks, queries[:, None].expand(-1, longest, -1), source, is_there)
