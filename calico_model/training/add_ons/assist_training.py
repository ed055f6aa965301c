"""Trains exemplar prompts and mask memory on a frozen CALICO: one visible loop, resumable.

The data of a step depends on seed and step alone. Only `exemplar.*` and `mask_memory.*` change.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from calico_model.errors import InvalidConfigError
from calico_model.modeling.exemplar_prompt import prototypes
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.losses import (
    DICE_WEIGHT,
    PIXEL_WEIGHT,
    dice_loss,
    hard_iou,
    pixel_loss,
)
from calico_model.modeling.model import Calico
from calico_model.training.add_ons.assist_batches import (
    ExemplarBatch,
    MemoryBatch,
    draw_exemplars,
    draw_memories,
)
from calico_model.training.add_ons.assist_lessons import Lessons
from calico_model.training.add_ons.assist_recipe import AssistRecipe
from calico_model.training.add_ons.run import AddOnProgress, teach_add_on

TAUGHT = ("exemplar", "mask_memory")
"""The add-ons that learn here; others that the weights have stay as they are."""


def train_assist(
    recipe: AssistRecipe,
    weights: Path,
    pool: Path,
    out: Path,
    *,
    on_progress: Callable[[AddOnProgress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Adds the two add-ons, trained afresh, to a model folder; arguments as in `teach_add_on`.

    Raises:
        InvalidConfigError: scenes that share no parts, too.
    """

    def build(model: Calico, _: Callable[[int], Lessons]) -> AssistObjective:
        model.exemplar = model.mask_memory = None
        model.add_on(TAUGHT)
        return AssistObjective(model, recipe)

    return teach_add_on(
        "assist", recipe, build, weights, pool, out, on_progress=on_progress, stop=stop
    )


class AssistObjective(nn.Module):
    """The add-ons behind a frozen decoder; forward returns the total loss and its terms."""

    def __init__(self, model: Calico, recipe: AssistRecipe) -> None:
        super().__init__()
        assert model.exemplar is not None
        assert model.mask_memory is not None
        self.exemplar, self.memory = model.exemplar, model.mask_memory
        self._decoder = (model.mask_decoder,)  # in a tuple: not a part of this module
        self._recipe, self._side = recipe, model.config.mask_side

    def lesson(
        self, lessons: Lessons, rng: np.random.Generator, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs one step on what is drawn from a chunk."""
        exemplars = draw_exemplars(lessons, rng, self._recipe.exemplars, self._side)
        memories = draw_memories(lessons, rng, self._recipe.memories, self._side)
        if not len(exemplars.image) or not len(memories.image):
            raise InvalidConfigError("pool: expected scenes that share parts, found none")
        loss, terms = self(lessons.features, exemplars, memories, step)
        return loss, terms

    def finish(self) -> None:
        """Nothing is left to do."""

    def forward(
        self, features: ImageFeatures, exemplars: ExemplarBatch, memories: MemoryBatch, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs one step; terms are detached."""
        (decoder,) = self._decoder
        none = decoder.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        wanted = prototypes(features, exemplars.source, exemplars.shares)
        sparse, added, presence = self.exemplar(features, exemplars.image, wanted)
        generator = torch.Generator().manual_seed(seed)
        kept = torch.rand(len(sparse), generator=generator) >= self._recipe.sparse_dropout
        sparse = sparse * kept[:, None, None].to(sparse)
        found, _ = decoder(features.mask, exemplars.image, sparse, none + added)
        remembered, _ = decoder(
            features.mask,
            memories.image,
            memories.sparse[:, None],
            none + self.memory(memories.history),
        )
        is_there = exemplars.is_there
        terms = {
            "exemplar": _mask_loss(found[is_there, 0], exemplars.target[is_there]),
            "presence": functional.binary_cross_entropy_with_logits(presence, is_there.float()),
            "memory": _mask_loss(remembered[:, 0], memories.target),
        }
        if not bool(is_there.all()):
            absent = pixel_loss(found[~is_there, 0], exemplars.target[~is_there]).mean()
            terms["absent"] = self._recipe.absent_weight * PIXEL_WEIGHT * absent
        total = torch.stack(list(terms.values())).sum()
        shown = {name: term.detach() for name, term in terms.items()}
        shown["exemplar_iou"] = hard_iou(found[is_there, 0], exemplars.target[is_there]).mean()
        shown["memory_iou"] = hard_iou(remembered[:, 0], memories.target).mean()
        shown["presence_right"] = ((presence > 0) == is_there).float().mean()
        return total, shown


def _mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    pixel, dice = pixel_loss(logits, target).mean(), dice_loss(logits, target).mean()
    return PIXEL_WEIGHT * pixel + DICE_WEIGHT * dice
