"""Trains the mask refiner behind a frozen CALICO: simulated annotators, answered round by round.

The data of a step depends on seed and step alone, and on what the refiner answered in that step.
Only `mask_refiner.*` changes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from calico_model.assist.focus import LIMIT, Focus, focus_on, merge, see, see_fine
from calico_model.checkpoints import fingerprint, load_model, save_model
from calico_model.data.pool import ScenePool
from calico_model.modeling.losses import DICE_WEIGHT, PIXEL_WEIGHT, dice_loss, pixel_loss
from calico_model.modeling.mask_refiner import VIEW, MaskRefiner, Plane
from calico_model.modeling.model import Calico
from calico_model.training.add_on_run import AddOnRun
from calico_model.training.assist_lessons import LessonFolder, Lessons
from calico_model.training.assist_training import AssistProgress
from calico_model.training.refiner_lessons import Annotator, draw_annotators
from calico_model.training.refiner_recipe import RefinerRecipe
from calico_model.types import BoolMask


def train_refiner(
    recipe: RefinerRecipe,
    weights: Path,
    pool: Path,
    out: Path,
    *,
    on_progress: Callable[[AssistProgress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Adds a trained refiner to a model folder.

    Args:
        recipe: what to do; the same recipe and folders resume an interrupted run.
        weights: model folder; a refiner it has is trained afresh.
        pool: rendered scenes, best of twice the network's size or more (see `pool.fill_pool`).
        out: gets `lessons/`, `state/`, `curve.csv`, `curve.png` and, when done, `model/`: a copy
            of `weights` with the refiner.
        on_progress: called after each chunk and every few steps.
        stop: asked every step; True saves the state and returns.

    Returns:
        The new model folder.

    Raises:
        CheckpointError: broken weights or state.
        InvalidConfigError: the run in `out` was started with another recipe or other weights.
        InvalidRecordError: no scenes.
    """
    model, tokenizer = load_model(weights)
    torch.manual_seed(recipe.seed)
    refiner = model.mask_refiner = MaskRefiner(model.mask_decoder.fine_width)
    lessons = LessonFolder(out / "lessons", model, tokenizer, ScenePool(pool), seed=recipe.seed)
    lessons.fill(
        recipe.chunks, lambda done: on_progress(AssistProgress("encoding", done, recipe.chunks))
    )
    run = AddOnRun(refiner, recipe, out, name="refiner", base=fingerprint(weights))

    def lesson(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        rng = np.random.default_rng((recipe.seed, 1, step))
        several = lessons.read(int(rng.integers(recipe.chunks)))
        return answer_annotators(model, refiner, several, rng, recipe)

    def show(step: int, terms: dict[str, float]) -> None:
        on_progress(AssistProgress("training", step, recipe.steps, terms))

    if run.train(lesson, show, stop):
        shutil.rmtree(out / "model", ignore_errors=True)
        shutil.copytree(weights, out / "model")
        save_model(model, tokenizer, out / "model", dtype=torch.bfloat16)
    return out / "model"


def answer_annotators(
    model: Calico,
    refiner: MaskRefiner,
    lessons: Lessons,
    rng: np.random.Generator,
    recipe: RefinerRecipe,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Lets annotators ask and correct for some rounds.

    Returns:
        Mean loss of all answers, and terms: it, and the mean IoU in the image after each round.
    """
    asking = draw_annotators(model, lessons, rng, recipe)
    losses: list[Tensor] = []
    terms: dict[str, Tensor] = {}
    for turn in range(recipe.rounds):
        answered = _answer(model, refiner, asking)
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
    model: Calico, refiner: MaskRefiner, asking: list[Annotator]
) -> tuple[Tensor, list[BoolMask]] | None:
    """Losses (n,) with gradient and masks of one round; None if nothing is to be seen."""
    coarse = [one.coarse(model) for one in asking]
    places = [focus_on(c > 0, one.prompt) for c, one in zip(coarse, asking, strict=True)]
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
    with torch.autocast("cpu", dtype=torch.bfloat16):
        added = refiner(views, fine)
    logits = LIMIT * views[:, Plane.COARSE] + added.float()
    loss = PIXEL_WEIGHT * pixel_loss(logits, targets) + DICE_WEIGHT * dice_loss(logits, targets)
    found = iter(added.detach().float().numpy())
    masks = [
        c > 0 if place is None else merge(c, place, next(found))
        for c, place in zip(coarse, places, strict=True)
    ]
    return loss, masks


def _target(truth: BoolMask, place: Focus) -> Tensor:
    """(V, V) share of each pixel of a view that belongs to the mask."""
    inside = place.of(truth).astype(np.float32)
    how = cv2.INTER_AREA if max(inside.shape) > VIEW else cv2.INTER_LINEAR
    return torch.from_numpy(cv2.resize(inside, (VIEW, VIEW), interpolation=how))


def _iou(mask: BoolMask, truth: BoolMask) -> float:
    return float((mask & truth).sum() / (mask | truth).sum())
