"""Clicks, boxes and an earlier mask to one mask of one image, without encoders or language model.

Follows SAM. A lone click or box may mean a part, a larger part or the whole: the decoder draws
three masks, and the mask of the highest predicted IoU is taken. Several prompts, or an earlier
mask, mean one thing: the decoder draws one mask. The earlier mask is given to the decoder whoever
drew it. A lone click on a region that the model predicted by itself means that region, if the
region agrees with the mask of the click. Works on features of one image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from calico_model.config import CalicoConfig
from calico_model.errors import InvalidMaskError
from calico_model.inference.images import mask_shares, scaled_size_hw
from calico_model.inference.low_res_mask import Coarse, Decoded, mask_of
from calico_model.inference.mask_refinement import (
    Picture,
    around,
    focus_on,
    picture_of,
    refine_masks,
)
from calico_model.inference.prompt import Click, MaskPrompt
from calico_model.inference.sam_outline import embed, outline, with_region
from calico_model.masks import mask_iou
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.mask_decoder import AMBIGUOUS, SINGLE, PointKind, coverage_logits
from calico_model.modeling.mobile_sam import MobileSam
from calico_model.modeling.model import Calico
from calico_model.types import BoolMask, PartMask, RgbImage

MAX_CLICKS = 64
"""Of more clicks on one mask, only the last count."""
_NO_BOX = (0.0, 0.0)
_DOT_RADIUS = 2
"""In pixels; a click changes at least a disc of that radius."""
_BOX_SLACK = 0.03
"""Of a box's sides, by which the mask of a photograph may reach beyond the box."""
_SAME_RECTANGLE = 0.8
"""IoU of two rectangles from which a second look would show the refiner the same."""
# IoU of a predicted region with the mask of the click, and the sum of that IoU and the region's
# score, from which the click means the region. Measured on held-out groups, in familiar and in
# unseen domains.
_LEAST_AGREEMENT, _LEAST_BELIEF = 0.1, 0.9


@dataclass(frozen=True, eq=False)
class Refined:
    """The mask that clicks and boxes mean.

    Attributes:
        mask: (H, W) bool in the original frame; may be empty.
        iou: predicted IoU in [0, 1].
        sparse: (T, C) prompt tokens the mask was decoded from.
        logits: (L, L) in the network's frame.
        meant: the region predicted by the model that the prompt means, or None.
    """

    mask: BoolMask
    iou: float
    sparse: Tensor
    logits: Tensor
    meant: PartMask | None = None


@torch.inference_mode()
def refine(
    model: Calico,
    features: ImageFeatures,
    image: RgbImage,
    prompt: MaskPrompt,
    known: Sequence[PartMask] = (),
) -> Refined:
    """Decodes the mask that a prompt means, and refines it where the model has a refiner.

    Args:
        model: in evaluation mode, on the device of the features.
        features: of one image.
        image: (H, W, 3) uint8.
        prompt: of the annotator; an earlier mask has the image's size.
        known: regions that the model predicted in the image by itself.

    Raises:
        InvalidMaskError: the earlier mask has another size.
    """
    size_hw = image.shape[0], image.shape[1]
    sparse, iou, logits = decode(model, features, size_hw, prompt)
    picture = picture_of(model, features, 0, image)
    if _is_photo(model, features):
        sam = model.mobile_sam()
        if sam is None:
            mask = _outline_in_photo(model, features, picture, prompt)
        else:
            mask, iou = _outline_by_sam(model, features, sam, image, prompt)
        return Refined(mask, iou, sparse, logits)
    previous = prompt.previous if prompt.previous is not None and prompt.previous.any() else None
    if previous is not None and model.mask_refiner is not None:
        mask = _correct(model, features, picture, prompt, previous)
        return Refined(mask, iou, sparse, logits)
    coarse = Decoded.of(logits, size_hw, model.config.image_size)
    if previous is not None:
        return Refined(coarse.mask(), iou, sparse, logits)
    mask = _refine_or_keep(model, picture, coarse, prompt)
    meant = _meant_region(mask, prompt, known)
    if meant is not None:
        return Refined(meant.mask, meant.score, sparse, logits, meant)
    if mask.any() and not _is_same_rectangle(coarse, mask, prompt):
        # The first mask shows where the thing is: look there.
        mask = _refine_or_keep(model, picture, mask, prompt)
    return Refined(mask, iou, sparse, logits)


@torch.inference_mode()
def prepare(model: Calico, features: ImageFeatures, image: RgbImage) -> None:
    """Encodes a photograph for MobileSAM, if it is to answer clicks; it remembers the image.

    Args:
        model, features, image: as in `refine`.
    """
    sam = model.mobile_sam() if _is_photo(model, features) else None
    if sam is not None:
        embed(sam, image)


def _is_photo(model: Calico, features: ImageFeatures) -> bool:
    """Whether clicks on an image are answered as on photographs."""
    return model.photo_refiner is not None and not model.is_familiar(features)


def _outline_in_photo(
    model: Calico, features: ImageFeatures, picture: Picture, prompt: MaskPrompt
) -> BoolMask:
    """Outlines what a prompt means in a photograph: the mask decoder knows only drawings.

    Clicks without an earlier mask or a box may mean a thing of any size. The first mask is the
    region that the project has learned to see there, or else comes from a wide look around a click.
    The second look is at the rectangle of the first mask. A box shows how large the thing is: both
    looks are at one rectangle, and nothing outside the box is meant.
    """
    refiner = model.photo_refiner
    assert refiner is not None
    empty = np.zeros(picture.image.shape[:2], np.bool_)
    place = None
    if prompt.previous is not None and prompt.previous.any():
        first = prompt.previous
    elif prompt.box is not None:
        place = focus_on(empty, prompt)
        (first,) = refine_masks(refiner, [picture], [empty], [prompt], [place])
        first = _inside_box(first, prompt)
    elif (learned := _learned_region(model, features, prompt, empty.shape)) is not None:
        first = learned
    else:
        click = next((c for c in prompt.clicks if c.is_positive), prompt.clicks[-1])
        wide = around(click, empty.shape)
        (first,) = refine_masks(refiner, [picture], [empty], [prompt], [wide])
    place = focus_on(first, prompt) if place is None else place
    (mask,) = refine_masks(refiner, [picture], [first], [prompt], [place])
    return _obey_last_click(_inside_box(mask, prompt), prompt)


def _outline_by_sam(
    model: Calico, features: ImageFeatures, sam: MobileSam, image: RgbImage, prompt: MaskPrompt
) -> tuple[BoolMask, float]:
    """Outlines what a prompt means in a photograph by MobileSAM; returns mask and predicted IoU.

    A lone click on a part that the project has learned to see rather means that part. What is
    corrected is a region that MobileSAM did not draw: its rectangle is part of the prompt, and a
    negative click only takes away from it.
    """
    size_hw = image.shape[0], image.shape[1]
    asked = with_region(prompt) if prompt.corrects_region and prompt.box is None else prompt
    learned = _learned_region(model, features, asked, size_hw)
    mask, iou = outline(sam, embed(sam, image), size_hw, asked, learned)
    if prompt.corrects_region and prompt.clicks and not prompt.clicks[-1].is_positive:
        assert prompt.previous is not None
        mask = mask & prompt.previous
    return _obey_last_click(_inside_box(mask, prompt), prompt), iou


def _inside_box(mask: BoolMask, prompt: MaskPrompt) -> BoolMask:
    """The part of a mask inside a box; annotators draw boxes a little too small at times."""
    if prompt.box is None or prompt.clicks:
        return mask
    (left, right), (top, bottom) = (sorted(prompt.box[axis::2]) for axis in (0, 1))
    across, down = _BOX_SLACK * (right - left), _BOX_SLACK * (bottom - top)
    kept = np.zeros_like(mask)
    rows = slice(max(0, math.floor(top - down)), max(0, math.ceil(bottom + down)))
    columns = slice(max(0, math.floor(left - across)), max(0, math.ceil(right + across)))
    kept[rows, columns] = mask[rows, columns]
    return kept


def _learned_region(
    model: Calico, features: ImageFeatures, prompt: MaskPrompt, size_hw: tuple[int, ...]
) -> BoolMask | None:
    """The region of a learned name under a lone positive click, or None."""
    if not prompt.is_ambiguous or not prompt.clicks or not prompt.clicks[0].is_positive:
        return None
    height, width = size_hw
    return part_at(model, features, (height, width), *prompt.clicks[0].pixel(size_hw))


@torch.inference_mode()
def part_at(
    model: Calico, features: ImageFeatures, size_hw: tuple[int, int], row: int, column: int
) -> BoolMask | None:
    """Returns the part that the dense head detects at a pixel.

    Args:
        model: with its active adapter.
        features: of one image.
        size_hw: its height and width in pixels.
        row, column: of the pixel.

    Returns:
        (H, W) bool, the connected region around the pixel that has its name; None if the pixel is
        of no known part.
    """
    head = model.dense_head
    if head is None or not head.active.trust or not features.photo or not head.active.names.parts:
        return None
    logits = head.class_logits(features)[0][0]
    height, width = size_hw
    cells = logits.shape[-1]
    at = min(row * cells // height, cells - 1), min(column * cells // width, cells - 1)
    best = int(logits[:, at[0], at[1]].argmax())
    if best == 0:
        return None
    others = logits.clone()
    others[best] = -torch.inf
    margin = (logits[best] - others.amax(0)).cpu().numpy()
    level = cv2.resize(margin, (width, height), interpolation=cv2.INTER_LINEAR)
    _, pieces = cv2.connectedComponents((np.asarray(level) > 0).astype(np.uint8))
    piece = int(pieces[min(row, height - 1), min(column, width - 1)])
    return np.asarray(pieces == piece) if piece else None


def _disobeyed_click(mask: BoolMask, prompt: MaskPrompt) -> Click | None:
    """Returns the last click of a prompt if a mask does not do what it says, else None."""
    if not prompt.clicks:
        return None
    last = prompt.clicks[-1]
    return None if bool(mask[last.pixel(mask.shape)]) is last.is_positive else last


def _obey_last_click(mask: BoolMask, prompt: MaskPrompt) -> BoolMask:
    """Adds or removes a disc under the last click, unless the mask obeys the click already."""
    last = _disobeyed_click(mask, prompt)
    if last is None:
        return mask
    row, column = last.pixel(mask.shape)
    disc = np.zeros(mask.shape, np.uint8)
    cv2.circle(disc, (column, row), _DOT_RADIUS, 1, thickness=-1)
    return mask | (disc > 0) if last.is_positive else mask & ~(disc > 0)


def _refine_or_keep(
    model: Calico, picture: Picture, coarse: Coarse, prompt: MaskPrompt
) -> BoolMask:
    """A coarse mask after one look of the refiner, or as it is in a model without a refiner."""
    if model.mask_refiner is None:
        return mask_of(coarse)
    (mask,) = refine_masks(model.mask_refiner, [picture], [coarse], [prompt])
    return mask


def _meant_region(mask: BoolMask, prompt: MaskPrompt, known: Sequence[PartMask]) -> PartMask | None:
    """The predicted region that a lone positive click means, or None.

    It lies under the click, agrees best with the click's own mask, and is likely enough.
    """
    if prompt.box is not None or len(prompt.clicks) != 1 or not prompt.clicks[0].is_positive:
        return None
    pixel = prompt.clicks[0].pixel(mask.shape)
    under = [(mask_iou(part.mask, mask), part) for part in known if part.mask[pixel]]
    agreement, best = max(under, key=lambda candidate: candidate[0], default=(0.0, None))
    if best is None or agreement < _LEAST_AGREEMENT:
        return None
    return best if agreement + best.score >= _LEAST_BELIEF else None


def _is_same_rectangle(coarse: Coarse, mask: BoolMask, prompt: MaskPrompt) -> bool:
    """Whether the rectangles around two masks show about the same."""
    first, second = focus_on(coarse, prompt), focus_on(mask, prompt)
    return first is not None and second is not None and first.iou(second) >= _SAME_RECTANGLE


def _correct(
    model: Calico,
    features: ImageFeatures,
    picture: Picture,
    prompt: MaskPrompt,
    previous: BoolMask,
) -> BoolMask:
    """Refines an earlier mask; if that ignores the last click, adds or removes what is under it."""
    assert model.mask_refiner is not None
    (mask,) = refine_masks(model.mask_refiner, [picture], [previous], [prompt])
    last = _disobeyed_click(mask, prompt)
    if last is None:
        return mask
    row, column = last.pixel(mask.shape)
    others = [c for c in prompt.clicks[:-1] if c.is_positive is not last.is_positive]
    alone = MaskPrompt(
        (replace(last, is_positive=True), *(replace(c, is_positive=False) for c in others))
    )
    piece = refine(model, features, picture.image, alone).mask.astype(np.uint8)
    cv2.circle(piece, (column, row), _DOT_RADIUS, 1, thickness=-1)
    under = piece > 0
    return previous | under if last.is_positive else previous & ~under


@torch.inference_mode()
def decode(
    model: Calico, features: ImageFeatures, size_hw: tuple[int, int], prompt: MaskPrompt
) -> tuple[Tensor, float, Tensor]:
    """Runs the prompt encoder and the mask decoder, without the refiner.

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
        previous = coverage_logits(shares)[None].to(device)
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
        places.append(_NO_BOX)
        kinds.append(PointKind.NONE)  # SAM pads clicks without a box
    height, width = size_hw
    down, across = scaled_size_hw(size_hw, config.image_size)
    original = torch.tensor(places).clamp(min=0.0).minimum(torch.tensor([width, height]))
    points = original * torch.tensor([across / width, down / height])
    return points[None], torch.tensor([kinds], dtype=torch.int64)
