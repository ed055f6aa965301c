"""The loss of training from scratch, as one module, for data-parallel wrappers need one forward.

Legend as in `batches`. The heads here (dense labels, presence, part dictionary) train the encoders
of a model from scratch; they are not part of CALICO and are not shipped.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from calico_model.data.catalogue import PART_NAMES, TRAINED_CATEGORIES
from calico_model.modeling.features import ImageFeatures, Pixels
from calico_model.modeling.losses import (
    DICE_WEIGHT,
    PIXEL_WEIGHT,
    TEXT_WEIGHT,
    dice_loss,
    hard_iou,
    pixel_loss,
    quality_loss,
    text_loss,
)
from calico_model.modeling.model import Calico
from calico_model.training.pretraining.batches import (
    WHOLE,
    MaskTargets,
    SceneBatch,
    TrainingBatch,
    cell_shares,
)
from calico_model.training.simulated_clicks import ClickDraw, click_losses

_BACKGROUND_WEIGHT = 0.15
_QUALITY_WEIGHT = 0.2


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms that only training from scratch has; `mask` scales the paper's terms."""

    dense: float
    prompt: float
    presence: float
    mask: float = 1.0


class AuxiliaryDenseHead(nn.Module):
    """Predicts part and category of every cell from one encoder's map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.parts = nn.Linear(width, 1 + len(PART_NAMES))
        self.categories = nn.Linear(width, 1 + len(TRAINED_CATEGORIES))

    def forward(self, cells: Tensor, part_shares: Tensor, category_shares: Tensor) -> Tensor:
        """Cross-entropy of (M, G, G, D) cells against (M, G, G, classes) shares."""
        return _soft_entropy(self.parts(cells), part_shares) + _soft_entropy(
            self.categories(cells), category_shares
        )


def _soft_entropy(logits: Tensor, shares: Tensor) -> Tensor:
    weights = shares.clone()
    weights[..., 0] *= _BACKGROUND_WEIGHT
    terms = -weights * logits.float().log_softmax(-1)
    return terms.sum() / weights.sum()


class PretrainingObjective(nn.Module):
    """The model with its auxiliary heads; forward returns the total loss and its terms."""

    def __init__(self, model: Calico, weights: LossWeights) -> None:
        super().__init__()
        self.model = model
        self.weights = weights
        config = model.config
        width = config.mask.prompt_width
        self.eva_head = AuxiliaryDenseHead(config.eva.width)
        self.dino_head = AuxiliaryDenseHead(config.dino.width) if model.dino is not None else None
        self.mask_head = AuxiliaryDenseHead(width)
        self.part_prompts = nn.Embedding(WHOLE + 1, width)
        self.category_prompts = nn.Embedding(len(TRAINED_CATEGORIES), width)
        for table in (self.part_prompts, self.category_prompts):
            nn.init.normal_(table.weight, std=0.5)
        self.presence = nn.Linear(config.language.width, len(TRAINED_CATEGORIES) + len(PART_NAMES))

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs the data of one step.

        Returns:
            The total loss, and its terms and metrics without gradient.
        """
        features = batch.features
        if features is None:
            features = self.model.encode(Pixels(batch.scenes.pixels))
        rows = self.model.image_rows(features)
        terms: dict[str, Tensor] = {}
        if self.weights.dense:
            terms["dense"] = self.weights.dense * self._dense(features, batch.scenes)
        presence = functional.binary_cross_entropy_with_logits(
            self.presence(rows.mean(1)).float(), batch.scenes.presence
        )
        terms["presence"] = self.weights.presence * presence * 10
        prompts = self.part_prompts(batch.masks.part) + self.category_prompts(batch.masks.category)
        if batch.turns is None:
            decoded = self.model.mask_decoder(features.mask, batch.masks.image, prompts[:, None])
            logits, iou = decoded[0][:, 0], decoded[1][:, 0]
        else:
            hidden, token_logits = self.model(features, batch.turns.conversations)
            terms["text"] = TEXT_WEIGHT * text_loss(token_logits, batch.turns.labels)
            states = hidden[batch.turns.seg_row, batch.turns.seg_column][batch.segments]
            projected = self.model.segmentation_projection(states)
            terms["prompt"] = self.weights.prompt * functional.mse_loss(
                projected.float(), prompts.detach()
            )
            decoded = self.model.mask_decoder(features.mask, batch.masks.image, projected[:, None])
            logits, iou = decoded[0][:, 0], decoded[1][:, 0]
        terms |= self._masks(logits, iou, batch.masks)
        metrics = {"mask_iou": hard_iou(logits, batch.masks.target).mean()}
        if batch.clicks is not None:
            clicked, metrics["click_iou"] = self._clicks(
                features, batch.masks, logits, batch.clicks
            )
            terms |= clicked
        total = torch.stack(list(terms.values())).sum()
        return total, {name: term.detach() for name, term in terms.items()} | metrics

    def _dense(self, features: ImageFeatures, scenes: SceneBatch) -> Tensor:
        eva = features.global_tokens[:, 1:]
        total = eva.new_zeros(())
        shares: dict[int, tuple[Tensor, Tensor]] = {}
        embedding = features.mask.embedding.permute(0, 2, 3, 1)  # (M, G, G, C)
        maps = [(self.eva_head, _grid(eva)), (self.mask_head, embedding)]
        if self.dino_head is not None:
            maps.append((self.dino_head, _grid(features.semantic_tokens)))
        for head, cells in maps:
            side = cells.shape[1]
            if side not in shares:
                shares[side] = (
                    cell_shares(scenes.parts, 1 + len(PART_NAMES), side),
                    cell_shares(scenes.categories, 1 + len(TRAINED_CATEGORIES), side),
                )
            total = total + head(cells, *shares[side])
        return total

    def _masks(self, logits: Tensor, iou: Tensor, masks: MaskTargets) -> dict[str, Tensor]:
        scale = self.weights.mask
        return {
            "pixel": scale * PIXEL_WEIGHT * pixel_loss(logits, masks.target).mean(),
            "dice": scale * DICE_WEIGHT * dice_loss(logits, masks.target).mean(),
            "quality": _QUALITY_WEIGHT * quality_loss(iou, logits, masks.target),
        }

    def _clicks(
        self, features: ImageFeatures, masks: MaskTargets, logits: Tensor, draw: ClickDraw
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Loss terms of simulated clicks, and the IoU after the last of them."""
        rows, scale = draw.rows, self.weights.mask
        losses = click_losses(
            self.model.mask_decoder,
            features.mask,
            masks.image[rows],
            masks.target[rows],
            logits[rows].detach().float(),
            draw.seed,
        )
        terms = {
            "click_pixel": scale * PIXEL_WEIGHT * losses.pixel,
            "click_dice": scale * DICE_WEIGHT * losses.dice,
            "click_quality": _QUALITY_WEIGHT * losses.quality,
        }
        return terms, losses.iou


def _grid(tokens: Tensor) -> Tensor:
    side = round(tokens.shape[1] ** 0.5)
    return tokens.reshape(len(tokens), side, side, -1)
