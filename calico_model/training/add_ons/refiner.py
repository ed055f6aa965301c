"""Training of the mask refiner behind a frozen CALICO: simulated annotators, round by round.

The data of a step depends on seed and step alone, and on the refiner's answers in that step.
Only `mask_refiner.*` changes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from calico_model.inference.low_res_mask import mask_of
from calico_model.inference.mask_refinement import (
    LIMIT,
    Focus,
    fine_map_of,
    focus_on,
    merge,
    view_of,
)
from calico_model.masks import mask_iou
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
) -> Path | None:
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
    """Lets annotators click and correct for some rounds.

    Args:
        model: frozen.
        refiner: of the model; learns.
        groups: images to outline.
        rng: source of everything that is drawn.
        recipe: number of annotators and rounds.

    Returns:
        Mean loss of all answers, and terms: "loss", and the mean IoU in the image after each round.
    """
    annotators = draw_annotators(model, groups, rng, recipe)
    losses: list[Tensor] = []
    terms: dict[str, Tensor] = {}
    for turn in range(recipe.rounds):
        answer = _answer(model, refiner, annotators, rng)
        if answer is None:
            break
        loss, masks = answer
        losses.append(loss)
        pairs = list(zip(annotators, masks, strict=True))
        ious = [mask_iou(mask, annotator.truth) for annotator, mask in pairs]
        terms[f"iou_{turn + 1}"] = torch.tensor(ious).mean()
        annotators = [annotator for annotator, mask in pairs if annotator.see(mask, rng)]
    total = torch.cat(losses).mean()
    return total, {"loss": total, **terms}


def _answer(
    model: Calico, refiner: MaskRefiner, annotators: list[Annotator], rng: np.random.Generator
) -> tuple[Tensor, list[BoolMask]] | None:
    """Losses (n,) with gradient and masks of one round; None if no mask has a place to refine."""
    coarse = [annotator.coarse(model) for annotator in annotators]
    places = [focus_on(c, a.prompt) for c, a in zip(coarse, annotators, strict=True)]
    shown = [
        (annotator, logits, place)
        for annotator, logits, place in zip(annotators, coarse, places, strict=True)
        if place is not None
    ]
    if not shown:
        return None
    views = torch.stack([view_of(a.picture.image, place, c, a.prompt) for a, c, place in shown])
    fine = torch.stack([fine_map_of(a.picture, place) for a, _, place in shown])
    targets = torch.stack([_target(a.truth, place) for a, _, place in shown])
    flips = torch.from_numpy(rng.random((2, len(shown))) < 0.5).T  # (n, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        added = refiner(mirrored(recoloured(views, rng), flips), mirrored(fine, flips))
        added = mirrored(added, flips)
    logits = LIMIT * views[:, Plane.COARSE] + added.float()
    loss = PIXEL_WEIGHT * pixel_loss(logits, targets) + DICE_WEIGHT * dice_loss(logits, targets)
    refined = iter(added.detach().float().numpy())
    masks = [
        mask_of(c) if place is None else merge(c, place, next(refined))
        for c, place in zip(coarse, places, strict=True)
    ]
    return loss, masks


def mirrored(values: Tensor, flips: Tensor) -> Tensor:
    """Mirrors n (..., height, width) values; the same flips undo it.

    Args:
        values: (n, ..., height, width).
        flips: (n, 2) bool, whether to mirror each left to right, and top to bottom.
    """
    shape = (-1,) + (1,) * (values.ndim - 1)
    values = torch.where(flips[:, 0].view(shape), values.flip(-1), values)
    return torch.where(flips[:, 1].view(shape), values.flip(-2), values)


def recoloured(views: Tensor, rng: np.random.Generator) -> Tensor:
    """Returns (n, planes, V, V) views in other colours: an edge is an edge in any colours."""
    n = len(views)
    mix = np.eye(3) * rng.uniform(0.7, 1.3, (n, 1, 3))
    swapped = rng.random(n) < _SWAPPED_SHARE
    mix[swapped] = np.stack([row[rng.permutation(3)] for row in mix])[swapped]
    shift = rng.normal(0, _SHIFT, (n, 3, 1, 1))
    colours = views[:, Plane.RED : Plane.BLUE + 1]
    colours = torch.einsum("nij,njhw->nihw", torch.from_numpy(mix).to(colours), colours)
    colours = colours + torch.from_numpy(shift).to(colours)
    return torch.cat((colours, views[:, Plane.BLUE + 1 :]), 1)


def _target(truth: BoolMask, place: Focus) -> Tensor:
    """(V, V) share of each pixel of a view that belongs to the mask."""
    inside = place.of(truth).astype(np.float32)
    how = cv2.INTER_AREA if max(inside.shape) > VIEW else cv2.INTER_LINEAR
    return torch.from_numpy(cv2.resize(inside, (VIEW, VIEW), interpolation=how))
