"""What a drawn box shows: the model is asked as if the box were the picture (B2).

The Q-Former reads the box's cells alone. Attention over some of its keys is attention masked to
them, so there are no new weights and no second path: a box around the whole picture gives the very
features of the picture, and without a box nothing is different. Masks are still drawn on the whole
picture. Knows features of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from calico_model.config import CalicoConfig
from calico_model.inference.answers import answer
from calico_model.inference.images import scaled_size_hw
from calico_model.inference.prompt import Box, MaskPrompt
from calico_model.interactive import clicks
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.types import BoolMask, PartMask, RegionKind, RgbImage

_LEAST_OVERLAP = 0.2  # of a region and the outline of the box, to have its name


def look_into(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    image: RgbImage,
    box: Box,
    known: Sequence[PartMask] = (),
) -> PartMask:
    """Outlines what a box shows and says what it is.

    Args:
        model: in evaluation mode, on the device of the features.
        tokenizer: of the model, and of the adapter it wears.
        features: of the one image.
        image: (H, W, 3) uint8.
        box: in pixels of that image.
        known: what the same weights found in this image when they saw the whole group.

    Returns:
        A region of image 0; its name is that of the region which it is most like, known or found
        by looking at the box alone, and "" when it is like none.

    Raises:
        InvalidMaskError: the box is not finite.
    """
    outlined = clicks.refine(model, features, image, MaskPrompt(box=box))
    size_hw = image.shape[0], image.shape[1]
    inside = within(features, box, size_hw, model.config)
    seen = answer(model, tokenizer, inside, [size_hw])
    alike = [
        (overlap * part.score, overlap, part)
        for part in (*known, *seen.parts)
        if (overlap := _iou(part.mask, outlined.mask)) >= _LEAST_OVERLAP
    ]
    if not alike:
        return PartMask(0, RegionKind.UNIQUE_PART, "", outlined.mask, score=outlined.iou)
    _, overlap, named = max(alike, key=lambda found: found[0])
    return replace(named, image_index=0, mask=outlined.mask, score=overlap * named.score)


def within(
    features: ImageFeatures, box: Box, size_hw: tuple[int, int], config: CalicoConfig
) -> ImageFeatures:
    """Returns features of one image whose tokens are those of the cells that a box touches.

    The class token, which carries the whole picture, stays only if every cell does.

    Args:
        features: of the one image.
        box: in pixels of that image; at least one cell is kept.
        size_hw: its (height, width) in pixels.
        config: says how the image lies in the encoders' frames.
    """
    return replace(
        features,
        global_tokens=_cells(features.global_tokens, box, size_hw, config),
        semantic_tokens=_cells(features.semantic_tokens, box, size_hw, config),
    )


def _cells(tokens: Tensor, box: Box, size_hw: tuple[int, int], config: CalicoConfig) -> Tensor:
    """Tokens (1, T, D) of the cells a box touches, (1, T', D)."""
    side = int(tokens.shape[1] ** 0.5)
    # Encoders on a trunk see the padded square; others see the picture stretched to theirs.
    shown = scaled_size_hw(size_hw, config.image_size) if config.trunk else (1, 1)
    frame = config.image_size if config.trunk else 1
    x0, x1 = sorted((box[0], box[2]))
    y0, y1 = sorted((box[1], box[3]))
    columns = _touched(x0 / size_hw[1], x1 / size_hw[1], side * shown[1] / frame, side)
    rows = _touched(y0 / size_hw[0], y1 / size_hw[0], side * shown[0] / frame, side)
    is_touched = torch.from_numpy((rows[:, None] & columns[None, :]).ravel())
    covers_all = x0 <= 0 and y0 <= 0 and x1 >= size_hw[1] and y1 >= size_hw[0]
    if covers_all:
        return tokens
    first = tokens.shape[1] - side * side
    return tokens[:, first:][:, is_touched.to(tokens.device)]


def _touched(start: float, end: float, shown: float, side: int) -> BoolMask:
    """Which of `side` cells a stretch touches, (side,) bool; `shown` of them show the picture."""
    low = min(max(int(start * shown), 0), side - 1)
    high = min(max(int(np.ceil(end * shown)), low + 1), side)
    places = np.arange(side)
    touched: BoolMask = (places >= low) & (places < high)
    return touched


def _iou(one: BoolMask, other: BoolMask) -> float:
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 0.0
