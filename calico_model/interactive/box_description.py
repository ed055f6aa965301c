"""What a drawn box shows: the model is asked as if the box were the whole picture.

The Q-Former reads the tokens of the box's cells alone. That equals attention masked to these cells,
so it needs no weights of its own: a box around the whole picture gives the very features of the
picture. Masks are still drawn on the whole picture. Works on features of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from calico_model.config import CalicoConfig
from calico_model.inference.generation import predict_regions
from calico_model.inference.images import scaled_size_hw
from calico_model.inference.prompt import Box, MaskPrompt
from calico_model.interactive.clicks import refine
from calico_model.masks import mask_iou
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.types import BoolMask, PartMask, RegionKind, RgbImage

_LEAST_IOU = 0.2
"""IoU of a region with the outline of the box, from which the outline may have its name."""


def describe_box(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    image: RgbImage,
    box: Box,
    known: Sequence[PartMask] = (),
) -> PartMask:
    """Outlines the thing in a box and names it.

    Args:
        model: in evaluation mode, on the device of the features.
        tokenizer: of the model with its active adapter.
        features: of the one image.
        image: (H, W, 3) uint8.
        box: in pixels of that image.
        known: regions that the same weights predicted in this image for the whole group.

    Returns:
        A region of image 0. It has the name of the most similar region, known or predicted from
        the box alone, and the name "" if no region is similar enough.

    Raises:
        InvalidMaskError: the box is not finite.
    """
    outlined = refine(model, features, image, MaskPrompt(box=box))
    size_hw = image.shape[0], image.shape[1]
    inside = crop_tokens(features, box, size_hw, model.config)
    predicted = predict_regions(model, tokenizer, inside, [size_hw])
    candidates = [
        (iou * part.score, iou, part)
        for part in (*known, *predicted.parts)
        if part.mask.any() and (iou := mask_iou(part.mask, outlined.mask)) >= _LEAST_IOU
    ]
    if not candidates:
        return PartMask(0, RegionKind.UNIQUE_PART, "", outlined.mask, score=outlined.iou)
    _, iou, named = max(candidates, key=lambda candidate: candidate[0])
    return replace(named, image_index=0, mask=outlined.mask, score=iou * named.score)


def crop_tokens(
    features: ImageFeatures, box: Box, size_hw: tuple[int, int], config: CalicoConfig
) -> ImageFeatures:
    """Returns features of one image with the tokens of the cells that a box touches.

    The class token, which describes the whole picture, stays only if the box touches every cell.

    Args:
        features: of the one image.
        box: in pixels of that image; at least one cell is kept.
        size_hw: height and width of the image in pixels.
        config: tells how the image lies in the encoders' frames.
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
    """Which cells along one side of the frame an interval of the picture touches.

    Args:
        start, end: share of the picture's side, in [0, 1] inside the picture.
        shown: cells that show the picture; the others are padding.
        side: all cells.

    Returns:
        (side,) bool, at least one True.
    """
    low = min(max(int(start * shown), 0), side - 1)
    high = min(max(int(np.ceil(end * shown)), low + 1), side)
    places = np.arange(side)
    touched: BoolMask = (places >= low) & (places < high)
    return touched
