"""Losses of the mask decoder on simulated clicks, boxes and corrections (SAM, appendix A).

Legend: n masks, L logit side, S side of the network's square frame in pixels.
Everything happens on tensors at logit resolution; no encoder and no language model runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from calico_model.modeling.losses import (
    DICE_WEIGHT,
    PIXEL_WEIGHT,
    dice_loss,
    hard_iou,
    pixel_loss,
)
from calico_model.modeling.mask_decoder import (
    AMBIGUOUS,
    SINGLE,
    MaskFeatures,
    PointKind,
    PromptedMaskDecoder,
    clamped_logits,
    coverage_logits,
)

ROUNDS = 3
_BOX_SHARE, _CORRECTED_SHARE = 0.25, 0.4  # of the masks; a single click starts the others
_CENTRED_SHARE = 0.7  # of the clicks; the others are anywhere in the error
_FORGOTTEN_SHARE = 0.15  # of rounds after the first, which do not get the earlier mask
_DRAWN_SHARE = 0.5  # of earlier masks, which come as an annotator's: bits, not logits
_CORNER_NOISE, _CORNER_LIMIT = 0.1, 20 / 1024  # of the box's side; of the frame's (SAM)
_DEPTHS = 8  # cells from the border at which "the middle" is settled


@dataclass(frozen=True)
class ClickDraw:
    """The masks of a step that simulated annotators click, too.

    Attributes:
        rows: (n,) int64 rows of the step's masks.
        seed: of everything that the annotators draw.
    """

    rows: Tensor
    seed: int


@dataclass(frozen=True)
class ClickLosses:
    """Means over masks and rounds, scalars.

    Attributes:
        pixel, dice: of the answer; where there are three masks, of the best.
        quality: squared error of the predicted IoU, over all requested masks.
        iou: reached after the last round.
    """

    pixel: Tensor
    dice: Tensor
    quality: Tensor
    iou: Tensor


def draw_clicks(rng: np.random.Generator, masks: int, clicks: int) -> ClickDraw | None:
    """Chooses up to `clicks` of a step's masks; None, and nothing drawn, where that is 0."""
    if not clicks:
        return None
    rows = np.sort(rng.permutation(masks)[:clicks])
    return ClickDraw(torch.from_numpy(rows), int(rng.integers(2**31)))


def click_losses(
    decoder: PromptedMaskDecoder,
    features: MaskFeatures,
    image: Tensor,
    target: Tensor,
    proposed: Tensor,
    seed: int,
) -> ClickLosses:
    """Lets simulated annotators click n masks for `ROUNDS` rounds.

    A round decodes all masks; the next click is in an error of the round before, whose mask is
    fed back without gradient. A first click or box gets SAM's three masks, of which the best
    learns; a correction of the [SEG] proposal, and every later round, gets a single mask.

    Args:
        decoder: with its prompt encoder.
        features: of M images.
        image: (n,) int64 which image.
        target: (n, L, L) share of each cell that belongs to the mask.
        proposed: (n, L, L) logits of the [SEG] prompts, without gradient.
        seed: of the annotators.
    """
    annotators = _Annotators(target, decoder.prompt_encoder.input_image_size[0], seed)
    points, kinds = annotators.begin(proposed)
    previous, is_known = annotators.shown(proposed), annotators.is_correcting
    many = torch.tensor([False] + [True] * len(AMBIGUOUS), device=target.device)
    requested = torch.where(is_known[:, None], ~many, many)  # (n, 4)
    outputs: Sequence[int] = (*SINGLE, *AMBIGUOUS)
    totals: list[tuple[Tensor, Tensor, Tensor]] = []
    reached = target.new_zeros(())
    for turn in range(ROUNDS):
        sparse, dense = decoder.embed(points, kinds, previous, is_known)
        logits, iou = decoder(features, image, sparse, dense, outputs=outputs)
        best, losses = _judge(logits, iou, target, requested)
        totals.append(losses)
        reached = hard_iou(best, target).mean()
        if turn + 1 < ROUNDS:
            click, kind = annotators.next_click(best)
            points, kinds = torch.cat((points, click), 1), torch.cat((kinds, kind), 1)
            previous, is_known = annotators.shown(best), annotators.remember()
            outputs, requested = SINGLE, requested.new_ones(len(target), 1)
    pixel, dice, quality = (torch.stack(column).mean() for column in zip(*totals, strict=True))
    return ClickLosses(pixel, dice, quality, reached)


def _judge(
    logits: Tensor, iou: Tensor, target: Tensor, requested: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """The best requested mask of each row (n, L, L), detached, and the losses of the round."""
    count, outputs = requested.shape
    flat = logits.flatten(0, 1)  # (n * outputs, L, L)
    truth = target[:, None].expand(-1, outputs, -1, -1).flatten(0, 1)
    pixel = pixel_loss(flat, truth).view(count, outputs)
    dice = dice_loss(flat, truth).view(count, outputs)
    loss = PIXEL_WEIGHT * pixel.detach() + DICE_WEIGHT * dice.detach()
    choice = loss.masked_fill(~requested, torch.inf).argmin(1)
    row = torch.arange(count, device=target.device)
    error = (iou.float() - hard_iou(flat, truth).view(count, outputs)) ** 2
    losses = pixel[row, choice].mean(), dice[row, choice].mean(), error[requested].mean()
    return logits[row, choice].detach(), losses


class _Annotators:
    """One simulated annotator per mask; everything is drawn from the seed."""

    def __init__(self, target: Tensor, side: int, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)  # on the CPU: the same everywhere
        self._device, self._count, self._side = target.device, len(target), side
        # A part may be too small to fill half a cell: then its fullest cells stand for it.
        fullest = target.amax((1, 2), keepdim=True).clamp(max=0.5, min=1e-6)
        self._truth = target >= fullest
        start = self._chance()
        self.is_correcting = start < _CORRECTED_SHARE
        self._is_boxing = start > 1 - _BOX_SHARE

    def begin(self, proposed: Tensor) -> tuple[Tensor, Tensor]:
        """First prompts, points (n, 2, 2) and kinds (n, 2): a click and nothing, or a box."""
        wrong = self._truth ^ (proposed > 0)
        click, kind = self._click(
            torch.where(self.is_correcting[:, None, None], wrong, self._truth)
        )
        clicks = torch.cat((click, torch.zeros_like(click)), 1)
        kinds = torch.cat((kind, torch.full_like(kind, PointKind.NONE)), 1)
        corners = torch.tensor(
            [PointKind.FIRST_CORNER, PointKind.SECOND_CORNER], device=self._device
        )
        is_boxing = self._is_boxing[:, None]
        points = torch.where(is_boxing[..., None], self._boxes(), clicks)
        return points, torch.where(is_boxing, corners, kinds)

    def next_click(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """A click (n, 1, 2) of a kind (n, 1) in the error of (n, L, L) logits."""
        return self._click(self._truth ^ (logits > 0))

    def shown(self, logits: Tensor) -> Tensor:
        """The (n, L, L) earlier mask as a prompt: logits, or bits as an annotator draws them."""
        finer = functional.interpolate(
            logits[:, None], scale_factor=2, mode="bilinear", align_corners=False
        )
        shares = functional.avg_pool2d((finer > 0).float(), 2)[:, 0]
        is_drawn = self._chance() < _DRAWN_SHARE
        return torch.where(is_drawn[:, None, None], coverage_logits(shares), clamped_logits(logits))

    def remember(self) -> Tensor:
        """(n,) whether the next round gets the earlier mask."""
        return self._chance() >= _FORGOTTEN_SHARE

    def _click(self, area: Tensor) -> tuple[Tensor, Tensor]:
        """A point in the middle of an (n, L, L) area, or anywhere in it."""
        is_centred = (self._chance() < _CENTRED_SHARE)[:, None, None]
        depth = _depth(area)
        goal = torch.where(is_centred, depth, depth.clamp(max=1.0)) + self._chance(area.shape[1:])
        cell = goal.flatten(1).argmax(1)  # the noise is below 1, the least depth inside
        side = area.shape[-1]
        is_inside = self._truth.flatten(1)[torch.arange(self._count, device=self._device), cell]
        kind = torch.where(is_inside, int(PointKind.POSITIVE), int(PointKind.NEGATIVE))
        corner = torch.stack((cell % side, cell // side), -1)
        point = (corner + self._chance((2,))) * (self._side / side)
        return point[:, None], kind[:, None]

    def _boxes(self) -> Tensor:
        """Corners (n, 2, 2) of the true masks' boxes, with noise."""
        side = self._truth.shape[-1]
        first = torch.stack([self._truth.any(axis).int().argmax(-1) for axis in (1, 2)], -1)
        last = torch.stack([self._truth.any(axis).flip(-1).int().argmax(-1) for axis in (1, 2)], -1)
        corners = torch.stack((first, side - last), 1) * (self._side / side)
        size = corners[:, 1:] - corners[:, :1]
        noise = torch.randn((self._count, 2, 2), generator=self._generator).to(self._device)
        limit = _CORNER_LIMIT * self._side
        noisy = corners + (noise * _CORNER_NOISE * size).clamp(-limit, limit)
        return noisy.clamp(0, self._side)

    def _chance(self, shape: Sequence[int] = ()) -> Tensor:
        """(n, *shape) uniform numbers in [0, 1)."""
        return torch.rand((self._count, *shape), generator=self._generator).to(self._device)


def _depth(area: Tensor) -> Tensor:
    """Distance in cells from the outside of an (n, L, L) area; 0 outside, at most `_DEPTHS`."""
    outside = functional.pad((~area).float()[:, None], (1, 1, 1, 1), value=1.0)
    depth = area.float()
    for _ in range(_DEPTHS - 1):
        # The frame's edge ends an area, too.
        outside = functional.max_pool2d(outside, 3, stride=1)
        depth = depth + (1 - outside[:, 0])
        outside = functional.pad(outside, (1, 1, 1, 1), value=1.0)
    return depth
