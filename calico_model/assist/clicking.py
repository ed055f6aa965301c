"""Clicks, boxes and an earlier mask to one mask of one image; no encoder and no language model.

Follows SAM: a lone click or box may mean a part, a larger part or the whole, so the best of three
masks answers, by the IoU head; several prompts, or an earlier mask, mean one thing, and one mask
answers. The earlier mask is fed back whoever drew it. Works on features of one image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from calico_model.assist.focus import Picture, picture_of, refine_masks
from calico_model.assist.prompt import MaskPrompt
from calico_model.config import CalicoConfig
from calico_model.errors import InvalidMaskError
from calico_model.features import ImageFeatures
from calico_model.images import mask_shares, scaled_size_hw, to_image
from calico_model.modeling.mask_decoder import AMBIGUOUS, SINGLE, PointKind
from calico_model.modeling.mask_prompt import from_shares
from calico_model.modeling.model import Calico
from calico_model.types import BoolMask, RgbImage

MAX_CLICKS = 64
"""Of more clicks on one mask, the last count."""
_NOTHING = (0.0, 0.0)
_DOT_PX = 2  # radius of what a click changes at least


@dataclass(frozen=True, eq=False)
class Refined:
    """What clicks and boxes led to.

    Attributes:
        mask: (H, W) bool in the original frame; may be empty.
        iou: predicted IoU in [0, 1].
        sparse: (T, C) prompt tokens it was decoded from.
        logits: (L, L) in the network's frame.
    """

    mask: BoolMask
    iou: float
    sparse: Tensor
    logits: Tensor


@torch.inference_mode()
def refine(model: Calico, features: ImageFeatures, image: RgbImage, prompt: MaskPrompt) -> Refined:
    """Decodes the mask that is meant, and sharpens it where the model has a refiner.

    Args:
        model: in evaluation mode, on the device of the features.
        features: of one image.
        image: (H, W, 3) uint8.
        prompt: what the annotator did; an earlier mask has the image's size.

    Raises:
        InvalidMaskError: the earlier mask has another size.
    """
    size_hw = image.shape[0], image.shape[1]
    sparse, iou, logits = decode(model, features, size_hw, prompt)
    coarse = to_image(logits, size_hw, model.config.image_size)
    mask = coarse > 0
    if model.mask_refiner is not None:
        picture = picture_of(model, features, 0, image)
        if prompt.previous is not None and prompt.previous.any():
            mask = _corrected(model, features, picture, prompt, prompt.previous)
        else:
            (mask,) = refine_masks(model.mask_refiner, [picture], [coarse], [prompt])
            if mask.any():  # now that it is clear where to look
                (mask,) = refine_masks(model.mask_refiner, [picture], [mask], [prompt])
    return Refined(mask, iou, sparse, logits)


def _corrected(
    model: Calico,
    features: ImageFeatures,
    picture: Picture,
    prompt: MaskPrompt,
    previous: BoolMask,
) -> BoolMask:
    """Changes what there is; a click that was not heeded adds or takes away what lies under it."""
    assert model.mask_refiner is not None
    (mask,) = refine_masks(model.mask_refiner, [picture], [previous], [prompt])
    if not prompt.clicks:
        return mask
    last = prompt.clicks[-1]
    height, width = mask.shape
    at = min(max(int(last.y), 0), height - 1), min(max(int(last.x), 0), width - 1)
    if bool(mask[at]) is last.is_positive:
        return mask
    others = [c for c in prompt.clicks[:-1] if c.is_positive is not last.is_positive]
    alone = MaskPrompt(
        (replace(last, is_positive=True), *(replace(c, is_positive=False) for c in others))
    )
    piece = refine(model, features, picture.image, alone).mask.astype(np.uint8)
    cv2.circle(piece, at[::-1], _DOT_PX, 1, thickness=-1)
    under = piece > 0
    return previous | under if last.is_positive else previous & ~under


@torch.inference_mode()
def decode(
    model: Calico, features: ImageFeatures, size_hw: tuple[int, int], prompt: MaskPrompt
) -> tuple[Tensor, float, Tensor]:
    """Asks the mask decoder alone.

    Args:
        model, features, prompt: as in `refine`.
        size_hw: the image's original height and width in pixels.

    Returns:
        sparse: (T, C) prompt tokens.
        iou: predicted IoU in [0, 1].
        logits: (L, L) in the network's frame.

    Raises:
        InvalidMaskError: the earlier mask has another size.
    """
    decoder, device = model.mask_decoder, features.mask.embedding.device
    points, kinds = _points(prompt, size_hw, model.config)
    previous = None
    if prompt.previous is not None and prompt.previous.any():
        if prompt.previous.shape != size_hw:
            raise InvalidMaskError(
                f"previous: expected a mask of {size_hw}, got {prompt.previous.shape}"
            )
        shares = mask_shares(prompt.previous, model.config.image_size, model.config.mask_side)
        previous = from_shares(shares)[None].to(device)
    sparse, dense = decoder.embed(points.to(device), kinds.to(device), previous)
    first = torch.zeros(1, dtype=torch.int64, device=device)
    outputs = AMBIGUOUS if prompt.is_ambiguous else SINGLE
    logits, iou = decoder(features.mask, first, sparse, dense, outputs=outputs)
    best = int(iou[0].argmax())
    return sparse[0], float(iou[0, best].clamp(0.0, 1.0)), logits[0, best]


def _points(
    prompt: MaskPrompt, size_hw: tuple[int, int], config: CalicoConfig
) -> tuple[Tensor, Tensor]:
    """Points (1, T, 2) in the square frame and their kinds (1, T), in SAM's order."""
    places: list[tuple[float, float]] = []
    kinds: list[PointKind] = []
    for click in prompt.clicks[-MAX_CLICKS:]:
        places.append((click.x, click.y))
        kinds.append(PointKind.POSITIVE if click.is_positive else PointKind.NEGATIVE)
    if prompt.box is not None:
        x0, y0, x1, y1 = prompt.box
        places += [(min(x0, x1), min(y0, y1)), (max(x0, x1), max(y0, y1))]
        kinds += [PointKind.FIRST_CORNER, PointKind.SECOND_CORNER]
    else:
        places.append(_NOTHING)
        kinds.append(PointKind.NONE)  # SAM pads clicks without a box
    height, width = size_hw
    down, across = scaled_size_hw(size_hw, config.image_size)
    original = torch.tensor(places).clamp(min=0.0).minimum(torch.tensor([width, height]))
    points = original * torch.tensor([across / width, down / height])
    return points[None], torch.tensor([kinds], dtype=torch.int64)
