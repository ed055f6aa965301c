"""The loss of fine-tuning on records (paper equations 10 and 11).

A forward pass returns sums, not means: the loss of a step is the sums of all its micro-batches on
all processes over the counts of the step, so that it does not depend on how samples are shared out.
Legend: K masks, L logit side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from calico_model.modeling.losses import (
    DICE_WEIGHT,
    PIXEL_WEIGHT,
    TEXT_WEIGHT,
    dice_loss,
    hard_iou,
    pixel_loss,
    text_loss,
)
from calico_model.modeling.model import Calico
from calico_model.training.frozen import frozen_features, rounded
from calico_model.training.supervised.batches import MicroBatch, SampleMasks, cells_inside
from calico_model.training.supervised.recipe import FinetuneRecipe
from calico_model.types import MAX_GROUP_SIZE

_PER_MASK = ("pixel", "dice", "quality", "mask_iou")
SUMS = 1 + len(_PER_MASK) * MAX_GROUP_SIZE
"""Length of the result of one forward pass."""


class FinetuneObjective(nn.Module):
    """The model and its loss as one module, for data-parallel wrappers need one forward."""

    def __init__(self, model: Calico, recipe: FinetuneRecipe) -> None:
        super().__init__()
        self.model = model
        self._focal_gamma = recipe.focal_gamma
        self._computes_in_half = recipe.computes_in_half

    def forward(self, batch: MicroBatch) -> Tensor:
        """Runs one micro-batch.

        Returns:
            (SUMS,) sums: text loss over tokens, then pixel loss, Dice loss, error of the IoU
            head and mask IoU over the masks of each image position (not differentiable).
        """
        device = batch.turns.labels.device
        # A micro-batch has dropout of its own, whichever process runs it.
        torch.manual_seed(batch.seed)
        features = batch.features
        if features is None:
            assert batch.pixels is not None
            features = frozen_features(self.model, batch.pixels)
        features = rounded(features, torch.float32)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._computes_in_half):
            hidden, logits = self.model(features, batch.turns.conversations)
            tokens = (batch.turns.labels[:, 1:] >= 0).sum()
            text = text_loss(logits, batch.turns.labels) * tokens
            states = hidden[batch.turns.seg_row, batch.turns.seg_column]  # (K, D)
        if not len(states):
            return torch.cat((text[None], text.new_zeros(SUMS - 1)))
        with torch.autocast(device.type, torch.bfloat16, enabled=self._computes_in_half):
            mask_logits, iou = self.model.segment(features, states, batch.masks.image)
        return torch.cat((text[None], self._mask_sums(mask_logits, iou, batch.masks)))

    def _mask_sums(self, logits: Tensor, iou: Tensor, masks: SampleMasks) -> Tensor:
        target = masks.target.float()
        inside = cells_inside(masks.extent, logits.shape[-1])
        reached = hard_iou(logits.masked_fill(inside == 0, -1.0), target)
        terms = (
            pixel_loss(logits, target, focal_gamma=self._focal_gamma, inside=inside),
            dice_loss(logits, target, inside=inside),
            (iou.float() - reached) ** 2,
            reached,
        )
        empty = logits.new_zeros(MAX_GROUP_SIZE, dtype=torch.float32)
        return torch.cat([empty.index_add(0, masks.slot, term) for term in terms])


def terms_of(sums: Tensor, counts: Tensor, recipe: FinetuneRecipe) -> dict[str, Tensor]:
    """Turns sums into the terms of the loss.

    Masks are averaged within each image position, then over the positions that have any.

    Args:
        sums: (SUMS,) of one or more micro-batches.
        counts: (COUNTS,) of the whole step: see `MicroBatch.counts`.
        recipe: weights.

    Returns:
        "loss", weighted "text", "pixel", "dice" and "quality", and "mask_iou".
    """
    slots = counts[1:]
    share = torch.where(slots > 0, 1 / slots.clamp(min=1), 0.0) / (slots > 0).sum().clamp(min=1)
    per_mask = (sums[1:].reshape(len(_PER_MASK), -1) * share.to(sums)).sum(1)
    means = dict(zip(_PER_MASK, per_mask, strict=True))
    weighted = {
        "text": TEXT_WEIGHT * sums[0] / counts[0].to(sums).clamp(min=1),
        "pixel": PIXEL_WEIGHT * means["pixel"],
        "dice": DICE_WEIGHT * means["dice"],
        "quality": recipe.quality_weight * means["quality"],
    }
    loss = torch.stack(list(weighted.values())).sum()
    return {"loss": loss, **weighted, "mask_iou": means["mask_iou"]}


def enable_checkpointing(model: Calico) -> None:
    """Recomputes the LLM's layers in the backward pass; CAMs stay outside of what is recomputed."""
    model.language.activation_checkpointing_enable({"use_reentrant": False})
