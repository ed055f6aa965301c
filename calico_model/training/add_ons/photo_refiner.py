"""Training of the refiner of photographs: simulated annotators click, box and correct in views.

Unlike the refiner of drawings it begins with the prompt alone: no mask decoder knows photographs.
Everything happens inside views whose maps are kept, so a step costs no encoding.
Legend: V side of a view, n annotators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from calico_model.errors import InvalidConfigError
from calico_model.inference.mask_refinement import LIMIT, Focus, photo_encoder, view_of
from calico_model.inference.prompt import Box, Click, MaskPrompt
from calico_model.modeling.losses import DICE_WEIGHT, PIXEL_WEIGHT, dice_loss, pixel_loss
from calico_model.modeling.mask_refiner import VIEW, MaskRefiner, Plane
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.training.add_ons.annotators import click_in_error, spoiled, true_box
from calico_model.training.add_ons.photo_views import (
    PhotoViews,
    View,
    Wish,
    fill_views,
    stack_maps,
)
from calico_model.training.add_ons.recipes import PhotoRefinerRecipe
from calico_model.training.add_ons.refiner import mirrored, recoloured
from calico_model.training.add_ons.run import AddOnTask, train_add_on
from calico_model.training.engine import OnProgress, TrainingProgress, ignore_progress
from calico_model.types import BoolMask, LabeledGroup

_STARTS = ("box", "corrected", "unasked", "click")
_WHOLE = Focus(0, 0, VIEW, VIEW)
_CENTRED_SHARE = 0.6  # of the clicks; the others are anywhere in what is wrong
_CORNER_NOISE = 0.04  # of the box's side
_GUESSED_SHARE = 0.4  # of the first clicks, which come with a rough mask of the model
_CELLS = (6, 32)  # of a view's side, in a rough mask
_LEAK = 0.35  # of the rough masks, into which a neighbour leaks


def train_photo_refiner(
    recipe: PhotoRefinerRecipe,
    weights: Path,
    pictures: Mapping[str, Sequence[LabeledGroup]],
    out: Path,
    *,
    on_progress: OnProgress = ignore_progress,
    stop: Callable[[], bool] = lambda: False,
) -> Path | None:
    """Adds a refiner of photographs to a model folder, or trains the refiner it has on.

    Args:
        recipe: what to do; the same recipe and folders resume an interrupted run.
        weights: model folder with a photo trunk; everything else in it stays as it is.
        pictures: name -> labeled groups, of several kinds of pictures, each drawn equally often.
        out: gets `views/`, `state/`, `curve.csv`, `curve.png` and, when done, `model/`.
        on_progress: called after each group and every few steps.
        stop: asked every step; True saves the state and returns.

    Returns:
        The new model folder; None when it was stopped before the end.

    Raises:
        CheckpointError: broken weights or state.
        InvalidConfigError: the model has no photo trunk, or the run in `out` was started otherwise.
    """

    def on_group(done: int, total: int) -> None:
        on_progress(TrainingProgress("encoding", done, total))

    def build(model: Calico, _: Tokenizer) -> PhotoRefinerTask:
        if model.config.photo_trunk is None:
            raise InvalidConfigError(
                "photo_trunk: expected one for the refiner of photographs, got none"
            )
        if model.photo_refiner is None:
            model.add_on(["photo_refiner"])
        assert model.photo_refiner is not None
        encode = torch.inference_mode()(photo_encoder(model))
        views = [
            fill_views(out / "views" / name, groups, encode, seed=recipe.seed, on_group=on_group)
            for name, groups in pictures.items()
        ]
        return PhotoRefinerTask(model.photo_refiner, views, recipe)

    return train_add_on(
        "photo refiner", recipe, weights, out, build, on_progress=on_progress, stop=stop
    )


@dataclass
class ViewAnnotator:
    """A simulated annotator of one mask of a view.

    Attributes:
        view: that shows the mask.
        truth: (V, V) bool, the wanted mask; not empty.
        coarse: (V, V) bool, the mask to sharpen; empty if there is none.
        clicks, box, previous: see `MaskPrompt`.
    """

    view: View
    truth: BoolMask
    coarse: BoolMask
    clicks: list[Click] = field(default_factory=list)
    box: Box | None = None
    previous: BoolMask | None = None

    @property
    def prompt(self) -> MaskPrompt | None:
        """The prompt of the clicks, box and earlier mask; None without clicks and box."""
        if not self.clicks and self.box is None:
            return None
        return MaskPrompt(tuple(self.clicks), self.box, self.previous)

    def click(self, mask: BoolMask, rng: np.random.Generator) -> bool:
        """Clicks in the largest error of a mask; returns False if there is none."""
        click = click_in_error(mask, self.truth, rng, centred=_CENTRED_SHARE)
        self.clicks += [click] if click is not None else []
        return click is not None

    def start_from(self, mask: BoolMask, rng: np.random.Generator) -> None:
        """Takes a mask as the earlier one and clicks in its error, or in the truth without any."""
        self.previous = mask if mask.any() else None
        self.coarse = mask
        if not self.click(mask, rng):
            self.click(np.zeros_like(self.truth), rng)


class PhotoRefinerTask(AddOnTask):
    """The refiner of photographs, answering simulated annotators."""

    def __init__(
        self, refiner: MaskRefiner, views: Sequence[PhotoViews], recipe: PhotoRefinerRecipe
    ) -> None:
        """Takes the views of several kinds of pictures, each drawn equally often."""
        super().__init__()
        self.refiner, self._views, self._recipe = refiner, views, recipe

    def training_step(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Lets annotators click and correct for some rounds.

        Returns:
            Mean loss of all answers, and terms: "loss", the mean IoU in the view after the first
            round by how the annotators began, and of all of them after the last round.
        """
        rng = np.random.default_rng((self._recipe.seed, 1, step))
        drawn = [self._draw(rng, k) for k in range(self._recipe.masks)]
        kinds = [kind for _, kind in drawn]
        annotators = [annotator for annotator, _ in drawn]
        flips = torch.from_numpy(rng.random((len(annotators), 2)) < (0.5, 0.1))
        maps = [mirrored(level, flips) for level in stack_maps([a.view for a in annotators])]
        losses: list[Tensor] = []
        terms: dict[str, Tensor] = {}
        for turn in range(self._recipe.rounds):
            loss, masks = self._answer(annotators, maps, flips, rng)
            losses.append(loss)
            ious = np.array(
                [
                    (mask & annotator.truth).sum() / (mask | annotator.truth).sum()
                    for mask, annotator in zip(masks, annotators, strict=True)
                ]
            )
            for kind in sorted(set(kinds)) if turn == 0 else ():
                rows = [k == kind for k in kinds]
                terms[f"iou_{kind}"] = torch.tensor(ious[rows]).mean()
            if turn:
                terms["iou_last"] = torch.tensor(ious).mean()
            for annotator, mask in zip(annotators, masks, strict=True):
                annotator.start_from(mask, rng)
        total = torch.cat(losses).mean()
        return total, {"loss": total, **terms}

    def _draw(self, rng: np.random.Generator, number: int) -> tuple[ViewAnnotator, str]:
        """An annotator after their first action, and the kind of that action."""
        views = self._views[number % len(self._views)]
        start = rng.random()
        recipe = self._recipe
        shares = (recipe.box_share, recipe.corrected_share, recipe.unasked_share)
        kind = _STARTS[int(np.searchsorted(np.cumsum(shares), start))]
        while True:
            view = views[int(rng.integers(len(views)))]
            fits = [k for k, wish in enumerate(view.wishes) if kind != "click" or wish is Wish.PART]
            if fits:
                break
        at = fits[int(rng.integers(len(fits)))]
        truth = view.masks[at]
        annotator = ViewAnnotator(view, truth, np.zeros((VIEW, VIEW), np.bool_))
        others = [mask for k, mask in enumerate(view.masks) if k != at]
        if kind == "box":
            annotator.box = true_box(truth, rng, noise=_CORNER_NOISE)
        elif kind == "unasked":
            annotator.coarse = rough(truth, others, rng)
        elif kind == "corrected":
            annotator.start_from(rough(truth, others, rng), rng)
        else:
            annotator.click(np.zeros_like(truth), rng)
            if rng.random() < _GUESSED_SHARE:
                annotator.coarse = rough(truth, others, rng)
        return annotator, kind

    def _answer(
        self,
        annotators: Sequence[ViewAnnotator],
        maps: Sequence[Tensor],
        flips: Tensor,
        rng: np.random.Generator,
    ) -> tuple[Tensor, list[BoolMask]]:
        """Losses (n,) with gradient and (V, V) masks of one round, on mirrored maps."""
        views = torch.stack([view_of(a.view.image, _WHOLE, a.coarse, a.prompt) for a in annotators])
        views = recoloured(mirrored(views, flips), rng)
        targets = torch.from_numpy(np.stack([a.truth for a in annotators])).float()
        added = self.refiner(views, views[:, :0, : VIEW // 2, : VIEW // 2], maps)
        logits = mirrored(LIMIT * views[:, Plane.COARSE] + added, flips)
        loss = PIXEL_WEIGHT * pixel_loss(logits, targets) + DICE_WEIGHT * dice_loss(logits, targets)
        return loss, list((logits.detach() > 0).numpy())


def rough(truth: BoolMask, others: Sequence[BoolMask], rng: np.random.Generator) -> BoolMask:
    """Returns a rough mask: the truth moved with bites, or of few cells that leak into others.

    Args:
        truth: (V, V) bool.
        others: masks of the same view that the rough mask may leak into.
        rng: source of everything that is drawn.
    """
    if rng.random() < 0.35:
        return spoiled(truth, rng)
    soft = truth.astype(np.float32)
    if others and rng.random() < _LEAK:
        near = others[int(rng.integers(len(others)))]
        soft = np.maximum(soft, near * np.float32(rng.uniform(0.3, 0.8)))
    cells = int(rng.integers(*_CELLS))
    small = np.asarray(cv2.resize(soft, (cells, cells), interpolation=cv2.INTER_AREA), np.float32)
    small = small + rng.normal(0, rng.uniform(0.05, 0.3), small.shape).astype(np.float32)
    level = np.asarray(cv2.resize(small, truth.shape[::-1], interpolation=cv2.INTER_LINEAR))
    mask: BoolMask = level > rng.uniform(0.3, 0.65)
    return mask
