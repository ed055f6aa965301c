"""Text, mask and quality losses (paper equations 10 and 11).

Legend: B conversations, T positions, V vocabulary, K masks, L logit side.
All are computed in float32 whatever the model runs in.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100
_DICE_SMOOTHING = 1e-3
TEXT_WEIGHT, PIXEL_WEIGHT, DICE_WEIGHT = 1.0, 2.0, 0.5


def text_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Next-token cross-entropy on answer tokens.

    Args:
        logits: (B, T, V).
        labels: (B, T), -100 on prompt, image rows and padding; shifted here.
    """
    return functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED
    )


def pixel_loss(
    logits: Tensor, target: Tensor, *, focal_gamma: float = 0.0, inside: Tensor | None = None
) -> Tensor:
    """Per-pixel sigmoid cross-entropy, mean over pixels: (K,).

    Args:
        logits: (K, L, L).
        target: (K, L, L) in [0, 1]; fractions at borders are fine.
        focal_gamma: 0 is the plain form, as in LISA's code; 2 is the paper's focal form.
        inside: (K, L, L) share of each cell that is image and not padding; None is all of it.
    """
    logits = logits.float()
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if focal_gamma:
        chance = logits.sigmoid()
        entropy = entropy * (target - chance).abs() ** focal_gamma
    if inside is None:
        return entropy.mean((1, 2))
    return (entropy * inside).sum((1, 2)) / inside.sum((1, 2))


def dice_loss(logits: Tensor, target: Tensor, *, inside: Tensor | None = None) -> Tensor:
    """Returns 1 - Dice overlap of the soft mask, (K,).

    The smoothing equals that of LISA and GLaMM, who add 1e-6 to sums that are divided by 1000.

    Args:
        logits, target, inside: as in `pixel_loss`.
    """
    chance = logits.float().sigmoid().flatten(1)
    if inside is not None:
        chance = chance * inside.flatten(1)
    truth = target.flatten(1)
    overlap = 2 * (chance * truth).sum(1) + _DICE_SMOOTHING
    return 1 - overlap / (chance.sum(1) + truth.sum(1) + _DICE_SMOOTHING)


@torch.no_grad()
def hard_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of thresholded masks: (K,) in [0, 1]; two empty masks agree fully."""
    predicted, truth = (logits > 0).flatten(1), (target > 0.5).flatten(1)
    union = (predicted | truth).sum(1)
    overlap = (predicted & truth).sum(1)
    return torch.where(union > 0, overlap / union.clamp(min=1), torch.ones_like(union).float())


def quality_loss(predicted_iou: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the IoU head against the IoU reached."""
    return functional.mse_loss(predicted_iou.float(), hard_iou(logits, target))
