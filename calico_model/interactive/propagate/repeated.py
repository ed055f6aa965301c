"""One of several parts of one name, by the mask memory that knows which parts are outlined.

The [SEG] prompt of "leg" draws all legs. A spot in the middle of a region that is not outlined yet
asks the mask memory for one leg. Works on cached features alone.
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

MOST_PARTS = 8
"""Regions of one name and image at most."""
_LEAST_CELLS = 3
_LEAST_SHARE = 0.15  # of the area of the first region
_TRIES = 8  # spots without a part, after which no further part is expected


@dataclass(frozen=True, eq=False)
class DrawnPart:
    """The decoder's mask of one of several alike parts, or of all of them.

    Attributes:
        logits: (L, L).
        iou: predicted IoU in [0, 1].
    """

    logits: Tensor
    iou: float


def middle(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Returns row and column, in cells, of the point deepest inside an (H, W) mask."""
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = divmod(int(depth.argmax()), mask.shape[1])
    return row + 0.5, column + 0.5


def spot(row: float, column: float, side: int) -> Tensor:
    """Returns (L, L) logits of a small disc, which marks the part that is asked for."""
    axis = torch.arange(side, dtype=torch.float32) + 0.5
    near = (axis[:, None] - row) ** 2 + (axis[None] - column) ** 2 <= SPOT_RADIUS**2
    return coverage_logits(near.float())


@dataclass(frozen=True, eq=False)
class PartPrompt:
    """A prompt for parts in one image.

    Attributes:
        image: 0-based position in the group.
        sparse: (T, C) prompt.
        dense: (C, G, G) dense prompt, or None for SAM's no-mask embedding.
    """

    image: int
    sparse: Tensor
    dense: Tensor | None = None


@torch.inference_mode()
def draw_all_parts(model: Calico, features: ImageFeatures, prompt: PartPrompt) -> DrawnPart:
    """Draws all parts that a prompt names, as one mask."""
    return _draw(model, features, prompt, _dense(model, features, prompt))


@torch.inference_mode()
def draw_next_part(
    model: Calico,
    features: ImageFeatures,
    prompt: PartPrompt,
    whole: Tensor,
    done: Sequence[Tensor],
) -> DrawnPart | None:
    """Draws one of the parts that a prompt names, in the largest region without an outline.

    Args:
        model: with a mask memory.
        features: of the group's images.
        prompt: for the parts.
        whole: (L, L) logits of all parts.
        done: (L, L) shares in [0, 1] of each part that is outlined already; the memory takes them
            as approved, whoever outlined them.

    Returns:
        The part, nowhere above zero inside an outlined part; None if there is no other part.
    """
    assert model.mask_memory is not None
    remembered = [coverage_logits(shares.to(whole)) for shares in done]
    todo, first_area = whole > 0, 0
    for mask in remembered:
        todo &= mask <= 0
    dense = _dense(model, features, prompt)
    for _ in range(_TRIES):
        seed = _largest(todo)
        area = 0 if seed is None else int(seed.sum())
        if seed is None or area < max(_LEAST_CELLS, _LEAST_SHARE * first_area):
            return None
        first_area = max(first_area, area)
        sought = spot(*middle(seed), seed.shape[-1]).to(whole.device)
        history = _history(remembered, sought, prompt.sparse.mean(0))
        drawn = _draw(model, features, prompt, dense + model.mask_memory(history)[0])
        logits = drawn.logits
        for mask in remembered:
            logits = torch.where(mask > 0, logits.clamp(max=-1e-3), logits)
        if int((logits > 0).sum()) >= _LEAST_CELLS:
            return replace(drawn, logits=logits)
        todo &= sought <= 0  # there is no part at this spot
    return None


def _dense(model: Calico, features: ImageFeatures, prompt: PartPrompt) -> Tensor:
    """The (C, G, G) dense prompt."""
    if prompt.dense is not None:
        return prompt.dense
    none = model.mask_decoder.prompt_encoder.no_mask_embed.weight.reshape(-1, 1, 1)
    side = features.mask.embedding.shape[-1]
    blank: Tensor = none.expand(-1, side, side)
    return blank


def _draw(model: Calico, features: ImageFeatures, prompt: PartPrompt, dense: Tensor) -> DrawnPart:
    image = torch.tensor([prompt.image], device=dense.device)
    logits, iou = model.mask_decoder(features.mask, image, prompt.sparse[None], dense[None])
    return DrawnPart(logits[0, 0], float(iou[0, 0].clamp(0, 1)))


def _largest(mask: Tensor) -> NDArray[np.bool_] | None:
    """The largest connected region of an (L, L) mask, or None if it is empty."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.cpu().numpy().astype(np.uint8))
    if count < 2:
        return None
    largest: NDArray[np.bool_] = labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    return largest


def _history(done: Sequence[Tensor], sought: Tensor, query: Tensor) -> History:
    """The mask memory's input for one image: (L, L) logits, and the (C,) prompt of the parts."""
    masks = torch.stack([*done, sought])[None]
    kinds = [MaskSource.APPROVED] * len(done) + [MaskSource.SOUGHT]
    source = torch.tensor([[int(kind) for kind in kinds]], device=sought.device)
    is_there = torch.ones_like(source, dtype=torch.bool)
    return History(masks, query.expand(1, len(kinds), -1), source, is_there)
