"""What clicks and boxes mean in a photograph, by MobileSAM.

A lone click may mean a part of a part, a part or the whole: the decoder draws three masks. People
click near the middle of what they mean, so that the mask is taken in whose middle the click is, or
that agrees with what the project has learned to see there. The earlier mask of a correction is
given to the decoder as logits, with all clicks so far.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calico_model.inference.detection_odds import EdgeEvidence
from calico_model.inference.images import SAM_MEAN, SAM_STD, scaled_size_hw
from calico_model.inference.prompt import Click, MaskPrompt
from calico_model.loading.placement import is_fast_in_half
from calico_model.masks import extent_of, mask_iou
from calico_model.modeling.mask_decoder import coverage_logits
from calico_model.modeling.mobile_sam import MobileSam
from calico_model.types import BoolMask, RgbImage

_MEAN, _STD = np.array(SAM_MEAN, np.float32), np.array(SAM_STD, np.float32)
_MAX_CLICKS = 64
"""Of more clicks on one mask, only the last count."""
_LEAST_AGREEMENT = 0.65
"""IoU of a predicted mask with MobileSAM's from which both show one thing."""
_SIZE_BIAS = np.array((-0.1, 0.0, -0.1))
_LEARNED_WEIGHT = 0.5
"""Bias of the three masks of a lone click, the smallest first: annotators mean parts. The mask is
taken whose sum of this bias, its predicted IoU, the click's depth in it and its weighted agreement
with what was learned is greatest. On seven sets of photographs such masks have a mean IoU of 0.53
before anything was learned, those of the greatest predicted IoU 0.46. Clicks anywhere in the inner
half of a part have 0.47 and 0.44. Where a part was learned under the click (three sets), they have
0.53, and masks in the rectangle of that part 0.46."""


def embed(sam: MobileSam, image: RgbImage) -> Tensor:
    """Returns the (1, 256, S / 16, S / 16) embedding of an (H, W, 3) uint8 image, remembered."""
    key = hashlib.sha1(np.ascontiguousarray(image).data, usedforsecurity=False).digest()
    if key not in sam.embeddings:
        device = sam.mask_decoder.iou_token.weight.device
        with torch.autocast(device.type, torch.bfloat16, enabled=is_fast_in_half(device)):
            sam.embeddings[key] = sam.encode(_to_frame(image, sam.side)).bfloat16()
    return sam.embeddings[key].float()


def _to_frame(image: RgbImage, side: int) -> Tensor:
    """The (1, 3, S, S) input of the encoder: normalised, the image in the upper left corner."""
    height, width = scaled_size_hw((image.shape[0], image.shape[1]), side)
    how = cv2.INTER_AREA if max(image.shape[:2]) > side else cv2.INTER_LINEAR
    scaled = np.asarray(cv2.resize(image, (width, height), interpolation=how), np.float32)
    frame = np.zeros((side, side, 3), np.float32)
    frame[:height, :width] = (scaled - _MEAN) / _STD
    return torch.from_numpy(frame).permute(2, 0, 1)[None]


def outline(
    sam: MobileSam,
    embedding: Tensor,
    size_hw: tuple[int, int],
    prompt: MaskPrompt,
    learned: BoolMask | None = None,
) -> tuple[BoolMask, float]:
    """Draws the mask that a prompt means.

    Args:
        sam: that embedded the image.
        embedding: see `embed`.
        size_hw: height and width of the image in pixels.
        prompt: in pixels of the image.
        learned: (H, W) bool, the region that the project has learned to see under a lone click.

    Returns:
        mask: (H, W) bool, may be empty.
        iou: predicted IoU in [0, 1].
    """
    shown = scaled_size_hw(size_hw, sam.side)
    scale = torch.tensor([shown[1] / size_hw[1], shown[0] / size_hw[0]])
    clicks = prompt.clicks[-_MAX_CLICKS:]
    places = labels = box = None
    if clicks:
        places = torch.tensor([(click.x, click.y) for click in clicks]) * scale
        labels = torch.tensor([int(click.is_positive) for click in clicks])
    if prompt.box is not None:
        x0, y0, x1, y1 = prompt.box
        corners = torch.tensor([[min(x0, x1), min(y0, y1)], [max(x0, x1), max(y0, y1)]])
        box = (corners * scale).flatten()
    is_lone_click = prompt.is_ambiguous and prompt.box is None
    previous = prompt.previous if prompt.previous is not None and prompt.previous.any() else None
    logits, iou = sam.decode(
        embedding,
        clicks=places,
        is_positive=labels,
        box=box,
        previous=None if previous is None else _as_logits(previous, shown, sam.side),
        is_ambiguous=is_lone_click,
    )
    levels = [_in_frame(level, shown, sam.side) for level in logits]
    best = 0
    if is_lone_click and places is not None:
        best = _meant(levels, iou, places[0], learned)
    height, width = size_hw
    whole = cv2.resize(levels[best], (width, height), interpolation=cv2.INTER_LINEAR)
    mask: BoolMask = np.asarray(whole) > 0
    return mask, float(iou[best].clamp(0.0, 1.0))


def _meant(
    levels: Sequence[NDArray[np.float32]], iou: Tensor, place: Tensor, learned: BoolMask | None
) -> int:
    """Number of the one of three masks that a lone click at (x, y) of the frame means."""
    column, row = place.tolist()
    worth: NDArray[np.float64] = iou.double().cpu().numpy() + _SIZE_BIAS
    worth += [depth_of(level > 0, row, column) for level in levels]
    if learned is not None:
        height, width = levels[0].shape
        scaled = cv2.resize(learned.astype(np.float32), (width, height))
        agreement = [mask_iou(level > 0, np.asarray(scaled) > 0.5) for level in levels]
        worth += _LEARNED_WEIGHT * np.array(agreement)
    return int(worth.argmax())


def depth_of(mask: BoolMask, row: float, column: float) -> float:
    """Distance of a place from the edge of the piece of a mask that it is in.

    It is a share of the greatest such distance in that piece, in [0, 1]; 0 outside the mask.
    """
    at = min(int(row), mask.shape[0] - 1), min(int(column), mask.shape[1] - 1)
    if not mask[at]:
        return 0.0
    _, pieces = cv2.connectedComponents(mask.astype(np.uint8))
    inside = np.pad(np.asarray(pieces == pieces[at], np.uint8), 1)  # an image's edge is an edge
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5)[1:-1, 1:-1]
    return float(depth[at] / depth.max())


def follow_edges(
    sam: MobileSam, image: RgbImage, mask: BoolMask
) -> tuple[BoolMask, EdgeEvidence | None]:
    """Draws a predicted mask with the edges that MobileSAM sees there.

    Args:
        sam: with the published weights.
        image: (H, W, 3) uint8.
        mask: (H, W) bool.

    Returns:
        mask: (H, W) bool; as it was if MobileSAM means another thing.
        edges: what MobileSAM says about the mask, None of an empty mask.
    """
    extent = extent_of(mask)
    if extent is None:
        return mask, None
    size_hw = image.shape[0], image.shape[1]
    drawn, iou = outline(sam, embed(sam, image), size_hw, MaskPrompt(box=extent, previous=mask))
    edges = EdgeEvidence(iou, mask_iou(drawn, mask))
    return (drawn if edges.agreement >= _LEAST_AGREEMENT else mask), edges


def with_region(prompt: MaskPrompt) -> MaskPrompt:
    """Returns a correction with the rectangle of its region.

    It gets a click inside the region, too, if no positive click is in it.

    Args:
        prompt: with clicks and the region as its earlier mask.
    """
    region = prompt.previous
    assert region is not None
    positive = [click for click in prompt.clicks if click.is_positive]
    extent = extent_of(region)
    assert extent is not None
    x0, y0, x1, y1 = extent
    box = (
        min([x0, *(click.x for click in positive)]),
        min([y0, *(click.y for click in positive)]),
        max([x1, *(click.x for click in positive)]),
        max([y1, *(click.y for click in positive)]),
    )
    clicks = prompt.clicks
    if not any(region[click.pixel(region.shape)] for click in positive):
        clicks = (*_deepest(region, prompt.clicks), *clicks)
    return replace(prompt, clicks=clicks, box=box)


def _deepest(region: BoolMask, clicks: Sequence[Click]) -> tuple[Click, ...]:
    """A click as far as possible inside a region, and from negative clicks; none if all is edge."""
    inside = np.pad(region.astype(np.uint8), 1)  # the image's edge is an edge of the region
    for click in clicks:
        if not click.is_positive:
            row, column = click.pixel(region.shape)
            inside[row + 1, column + 1] = 0
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = divmod(int(depth.argmax()), region.shape[1])
    return (Click(column + 0.5, row + 0.5),) if depth[row, column] > 0 else ()


def _as_logits(mask: BoolMask, shown: Sequence[int], side: int) -> Tensor:
    """(L, L) logits of a drawn mask in the padded frame."""
    scaled = cv2.resize(mask.astype(np.float32), (shown[1], shown[0]), interpolation=cv2.INTER_AREA)
    frame = np.zeros((side, side), np.float32)
    frame[: shown[0], : shown[1]] = scaled
    shares = cv2.resize(frame, (side // 4, side // 4), interpolation=cv2.INTER_AREA)
    return coverage_logits(torch.from_numpy(np.asarray(shares)))


def _in_frame(logits: Tensor, shown: Sequence[int], side: int) -> NDArray[np.float32]:
    """The part of (L, L) logits that shows the image, as (h, w) in the frame's pixels."""
    level = cv2.resize(logits.float().cpu().numpy(), (side, side), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(level[: shown[0], : shown[1]])
