"""One of several parts of one name, by the mask memory that knows which of them are done.

What [SEG] draws for "leg" is all legs. A spot in the middle of what is not yet outlined asks for
one of them. Works on cached features alone.
Legend: L logit side, C prompt width, T prompt tokens, G embedding grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.mask_decoder import coverage_logits
from calico_model.modeling.mask_memory import SPOT_RADIUS, History, MaskSource
from calico_model.modeling.model import Calico

MOST = 8
"""Regions of one name and image at most."""
_LEAST_CELLS, _LEAST_SHARE = 3, 0.15
_TRIES = 8  # spots that lead nowhere before nothing more is expected


@dataclass(frozen=True, eq=False)
class Piece:
    """One of several alike parts, or all of them.

    Attributes:
        logits: (L, L).
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
    return coverage_logits(near.float())


@dataclass(frozen=True, eq=False)
class Prompted:
    """One image and what is asked there.

    Attributes:
        image: which of the group.
        sparse: (T, C) prompt.
        dense: (C, G, G) of the prompt, or None for SAM's no-mask embedding.
    """

    image: int
    sparse: Tensor
    dense: Tensor | None = None


@torch.inference_mode()
def draw_whole(model: Calico, features: ImageFeatures, asked: Prompted) -> Piece:
    """Outlines all parts that a prompt stands for, as one."""
    return _draw(model, features, asked, _dense(model, features, asked))


@torch.inference_mode()
def draw_next(
    model: Calico, features: ImageFeatures, asked: Prompted, whole: Tensor, done: Sequence[Tensor]
) -> Piece | None:
    """Outlines one of the parts that a prompt stands for, where most is left of them.

    Args:
        model: with a mask memory.
        features: of the group's images.
        asked: what to draw.
        whole: (L, L) logits of all of them.
        done: (L, L) shares in [0, 1] of those that are outlined; remembered as approved, whoever
            outlined them.

    Returns:
        The part, nowhere above zero where one that is done is; None if there is no other.
    """
    assert model.mask_memory is not None
    remembered = [coverage_logits(shares.to(whole)) for shares in done]
    todo, first_area = whole > 0, 0
    for mask in remembered:
        todo &= mask <= 0
    dense = _dense(model, features, asked)
    for _ in range(_TRIES):
        seed = _largest(todo)
        area = 0 if seed is None else int(seed.sum())
        if seed is None or area < max(_LEAST_CELLS, _LEAST_SHARE * first_area):
            return None
        first_area = max(first_area, area)
        sought = spot(*middle(seed), seed.shape[-1]).to(whole.device)
        history = _history(remembered, sought, asked.sparse.mean(0))
        drawn = _draw(model, features, asked, dense + model.mask_memory(history)[0])
        logits = drawn.logits
        for mask in remembered:
            logits = torch.where(mask > 0, logits.clamp(max=-1e-3), logits)
        if int((logits > 0).sum()) >= _LEAST_CELLS:
            return replace(drawn, logits=logits)
        todo &= sought <= 0  # it led nowhere
    return None


def _dense(model: Calico, features: ImageFeatures, asked: Prompted) -> Tensor:
    """The (C, G, G) dense prompt."""
    if asked.dense is not None:
        return asked.dense
    none = model.mask_decoder.prompt_encoder.no_mask_embed.weight.reshape(-1, 1, 1)
    side = features.mask.embedding.shape[-1]
    blank: Tensor = none.expand(-1, side, side)
    return blank


def _draw(model: Calico, features: ImageFeatures, asked: Prompted, dense: Tensor) -> Piece:
    at = torch.tensor([asked.image], device=dense.device)
    logits, iou = model.mask_decoder(features.mask, at, asked.sparse[None], dense[None])
    return Piece(logits[0, 0], float(iou[0, 0].clamp(0, 1)))


def _largest(mask: Tensor) -> NDArray[np.bool_] | None:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.cpu().numpy().astype(np.uint8))
    if count < 2:
        return None
    largest: NDArray[np.bool_] = labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    return largest


def _history(done: Sequence[Tensor], sought: Tensor, query: Tensor) -> History:
    """What is remembered of one image: (L, L) logits, and the (C,) prompt they belong to."""
    masks = torch.stack([*done, sought])[None]
    kinds = [MaskSource.APPROVED] * len(done) + [MaskSource.SOUGHT]
    source = torch.tensor([[int(kind) for kind in kinds]], device=sought.device)
    is_there = torch.ones_like(source, dtype=torch.bool)
    return History(masks, query.expand(1, len(kinds), -1), source, is_there)
