"""The loss of an online update.

Weighted text and mask losses of the corrections (paper equations 10 and 11, region by region),
a penalty of names the answer must not contain, and the divergence from the base where the base is
the teacher. Legend as in `batches`; V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from calico_model.modeling.losses import (
    DICE_WEIGHT,
    IGNORED,
    PIXEL_WEIGHT,
    dice_loss,
    hard_iou,
    pixel_loss,
)
from calico_model.modeling.model import Calico
from calico_model.training.online.batches import QuestionBatch
from calico_model.training.online.plan import TermWeights

_QUALITY_WEIGHT = 0.2


def question_losses(
    model: Calico,
    batch: QuestionBatch,
    base: Tensor | None,
    weights: TermWeights,
    *,
    masks: Tensor,
) -> dict[str, Tensor]:
    """Runs one batch.

    Args:
        model: with the adapter that learns.
        batch: on the model's device.
        base: (B', T, V) log-probabilities of the base for the turns it teaches, or None.
        weights: of the terms.
        masks: (n,) which of the K masks to decode.

    Returns:
        Weighted terms; a term without anything to learn is missing.
    """
    hidden, logits = model(batch.features, batch.turns.conversations)
    terms: dict[str, Tensor] = {}
    labels, token_weights = batch.turns.labels[:, 1:], batch.token_weights[:, 1:]
    if bool(token_weights.any()):
        entropy = functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(),
            labels.flatten(),
            ignore_index=IGNORED,
            reduction="none",
        )
        terms["text"] = (entropy * token_weights.flatten()).sum() / token_weights.sum()
    if len(batch.absent_row):
        chance = logits[batch.absent_row, batch.absent_column].float().softmax(-1)
        chance = chance.gather(-1, batch.absent_token[:, None])[:, 0]
        terms["absence"] = -weights.absence * torch.log1p(-chance.clamp(max=0.999)).mean()
    if base is not None:
        is_answer = labels[batch.is_base] != IGNORED
        ours = logits[batch.is_base, :-1][is_answer].float().log_softmax(-1)
        theirs = base[:, :-1][is_answer]
        terms["anchor"] = weights.anchor * functional.kl_div(
            ours, theirs, reduction="batchmean", log_target=True
        )
    if len(masks):
        terms |= _mask_terms(model, batch, hidden, masks, weights.mask)
    return terms


@torch.no_grad()
def base_log_probabilities(model: Calico, batch: QuestionBatch) -> Tensor:
    """Returns (B', T, V) log-probabilities for the base's turns; the adapter must be disabled."""
    conversations = batch.turns.conversations
    rows = batch.is_base.nonzero()[:, 0]  # (B',)
    is_base = batch.is_base[conversations.image_row]
    place = batch.is_base.cumsum(0) - 1
    selected = replace(
        conversations,
        input_ids=conversations.input_ids[rows],
        is_token=conversations.is_token[rows],
        guidance=conversations.guidance[rows],
        image_row=place[conversations.image_row[is_base]],
        image_column=conversations.image_column[is_base],
        image_feature=conversations.image_feature[is_base],
    )
    _, logits = model(batch.features, selected)
    log_probabilities: Tensor = logits.float().log_softmax(-1)
    return log_probabilities


def _mask_terms(
    model: Calico, batch: QuestionBatch, hidden: Tensor, masks: Tensor, weight: float
) -> dict[str, Tensor]:
    states = hidden[batch.turns.seg_row[masks], batch.turns.seg_column[masks]]
    logits, iou = model.segment(batch.features, states, batch.image[masks])
    target, inside, share = batch.target[masks], batch.inside[masks], batch.mask_weights[masks]
    reached = hard_iou(logits.masked_fill(inside == 0, -1.0), target)
    total = share.sum()
    return {
        "pixel": weight
        * PIXEL_WEIGHT
        * (share * pixel_loss(logits, target, inside=inside)).sum()
        / total,
        "dice": weight
        * DICE_WEIGHT
        * (share * dice_loss(logits, target, inside=inside)).sum()
        / total,
        "quality": weight * _QUALITY_WEIGHT * (share * (iou.float() - reached) ** 2).sum() / total,
    }
