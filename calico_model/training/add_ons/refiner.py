"""Training of the mask refiner behind a frozen CALICO: simulated annotators, round by round.

The data of a step depends on seed and step alone, and on the refiner's answers in that step.
Only `mask_refiner.*` changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from calico_model.inference.low_res_mask import mask_of
from calico_model.inference.mask_refinement import LIMIT, Focus, focus_on, merge, see, see_fine
from calico_model.modeling.losses import DICE_WEIGHT, PIXEL_WEIGHT, dice_loss, pixel_loss
from calico_model.modeling.mask_refiner import VIEW, MaskRefiner, Plane
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.training.add_ons.annotators import Annotator, draw_annotators
from calico_model.training.add_ons.encoded_groups import (
    EncodedGroupFolder,
    EncodedGroups,
    fill_groups,
)
from calico_model.training.add_ons.recipes import RefinerRecipe
from calico_model.training.add_ons.run import AddOnTask, train_add_on
from calico_model.training.engine import OnProgress, ignore_progress
from calico_model.types import BoolMask

_SWAPPED_SHARE = 0.3  # of views whose colours change places
_SHIFT = 0.3  # of colours, in standard deviations of an image


def train_refiner(
    recipe: RefinerRecipe,
    weights: Path,
    pool: Path,
    out: Path,
    *,
    on_progress: OnProgress = ignore_progress,
    stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Adds a refiner to a model folder, or trains the refiner it has on.

    Arguments as in `train_assist`; the scenes of the pool are best of twice the network's size or
    more.
    """

    def build(model: Calico, tokenizer: Tokenizer) -> RefinerTask:
        groups = fill_groups(model, tokenizer, recipe, pool, out, on_progress)
        if model.mask_refiner is None:
            model.add_on(["mask_refiner"])
        assert model.mask_refiner is not None
        return RefinerTask(model, model.mask_refiner, recipe, groups)

    return train_add_on("refiner", recipe, weights, out, build, on_progress=on_progress, stop=stop)


class RefinerTask(AddOnTask):
    """The refiner, answering simulated annotators."""

    def __init__(
        self,
        model: Calico,
        refiner: MaskRefiner,
        recipe: RefinerRecipe,
        groups: EncodedGroupFolder,
    ) -> None:
        super().__init__()
        self.refiner, self._recipe, self._groups = refiner, recipe, groups
        self._model = (model,)  # in a tuple: not a part of this module

    def training_step(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Answers annotators of a chunk of encoded groups; see `answer_annotators`."""
        groups, rng = self._groups.draw(step)
        return answer_annotators(self._model[0], self.refiner, groups, rng, self._recipe)


def answer_annotators(
    model: Calico,
    refiner: MaskRefiner,
    groups: EncodedGroups,
    rng: np.random.Generator,
    recipe: RefinerRecipe,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Lets annotators ask and correct for some rounds.

    Returns:
        Mean loss of all answers, and terms: it, and the mean IoU in the image after each round.
    """
    asking = draw_annotators(model, groups, rng, recipe)
    losses: list[Tensor] = []
    terms: dict[str, Tensor] = {}
    for turn in range(recipe.rounds):
        answered = _answer(model, refiner, asking, rng)
        if answered is None:
            break
        loss, masks = answered
        losses.append(loss)
        ious = [_iou(mask, one.truth) for mask, one in zip(masks, asking, strict=True)]
        terms[f"iou_{turn + 1}"] = torch.tensor(ious).mean()
        asking = [one for one, mask in zip(asking, masks, strict=True) if one.see(mask, rng)]
    total = torch.cat(losses).mean()
    return total, {"loss": total, **terms}


def _answer(
    model: Calico, refiner: MaskRefiner, asking: list[Annotator], rng: np.random.Generator
) -> tuple[Tensor, list[BoolMask]] | None:
    """Losses (n,) with gradient and masks of one round; None if nothing is to be seen."""
    coarse = [one.coarse(model) for one in asking]
    places = [focus_on(c, one.prompt) for c, one in zip(coarse, asking, strict=True)]
    shown = [
        (one, logits, place)
        for one, logits, place in zip(asking, coarse, places, strict=True)
        if place is not None
    ]
    if not shown:
        return None
    views = torch.stack([see(one.picture.image, place, c, one.prompt) for one, c, place in shown])
    fine = torch.stack([see_fine(one.picture, place) for one, _, place in shown])
    targets = torch.stack([_target(one.truth, place) for one, _, place in shown])
    turned = _Turn.draw(len(shown), rng)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        added = turned(refiner(turned(recoloured(views, rng)), turned(fine)))
    logits = LIMIT * views[:, Plane.COARSE] + added.float()
    loss = PIXEL_WEIGHT * pixel_loss(logits, targets) + DICE_WEIGHT * dice_loss(logits, targets)
    found = iter(added.detach().float().numpy())
    masks = [
        mask_of(c) if place is None else merge(c, place, next(found))
        for c, place in zip(coarse, places, strict=True)
    ]
    return loss, masks


@dataclass(frozen=True)
class _Turn:
    """Which of n views are mirrored; turning twice turns back."""

    across: Tensor
    down: Tensor

    @classmethod
    def draw(cls, views: int, rng: np.random.Generator) -> _Turn:
        across, down = torch.from_numpy(rng.random((2, views)) < 0.5)
        return cls(across, down)

    def __call__(self, values: Tensor) -> Tensor:
        """Turns (n, ..., height, width)."""
        shape = (-1,) + (1,) * (values.ndim - 1)
        values = torch.where(self.across.view(shape), values.flip(-1), values)
        return torch.where(self.down.view(shape), values.flip(-2), values)


def recoloured(views: Tensor, rng: np.random.Generator) -> Tensor:
    """Returns (n, planes, V, V) views in other colours: an edge is one in any of them."""
    n = len(views)
    mix = np.eye(3) * rng.uniform(0.7, 1.3, (n, 1, 3))
    swapped = rng.random(n) < _SWAPPED_SHARE
    mix[swapped] = np.stack([row[rng.permutation(3)] for row in mix])[swapped]
    shift = rng.normal(0, _SHIFT, (n, 3, 1, 1))
    seen = views[:, Plane.RED : Plane.BLUE + 1]
    seen = torch.einsum("nij,njhw->nihw", torch.from_numpy(mix).to(seen), seen)
    return torch.cat((seen + torch.from_numpy(shift).to(seen), views[:, Plane.BLUE + 1 :]), 1)


def _target(truth: BoolMask, place: Focus) -> Tensor:
    """(V, V) share of each pixel of a view that belongs to the mask."""
    inside = place.of(truth).astype(np.float32)
    how = cv2.INTER_AREA if max(inside.shape) > VIEW else cv2.INTER_LINEAR
    return torch.from_numpy(cv2.resize(inside, (VIEW, VIEW), interpolation=how))


def _iou(mask: BoolMask, truth: BoolMask) -> float:
    return float((mask & truth).sum() / (mask | truth).sum())
