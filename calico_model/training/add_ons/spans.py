"""Training of the span head behind a frozen CALICO: tags of answers, and queries of their phrases.

Only `span_head.*` changes. The loss is Plum's without that of the language model, which is frozen:
tags, masks, and the divergence of the queries from those of the [SEG] tokens that they replace.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from calico_model.data.pool import ScenePool
from calico_model.modeling.losses import (
    DICE_WEIGHT,
    PIXEL_WEIGHT,
    dice_loss,
    hard_iou,
    pixel_loss,
)
from calico_model.modeling.mask_decoder import MaskFeatures
from calico_model.modeling.model import Calico
from calico_model.modeling.span_head import SpanHead, anchor_loss, tag_loss
from calico_model.tokenizer import Tokenizer
from calico_model.training.add_ons.recipes import SpanRecipe
from calico_model.training.add_ons.run import AddOnTask, train_add_on
from calico_model.training.add_ons.span_lessons import SpanLessonFolder, SpanLessons
from calico_model.training.engine import OnProgress, TrainingProgress, ignore_progress


def train_spans(
    recipe: SpanRecipe,
    weights: Path,
    pool: Path,
    out: Path,
    *,
    on_progress: OnProgress = ignore_progress,
    stop: Callable[[], bool] = lambda: False,
) -> Path | None:
    """Adds a span head, trained afresh, to a model folder.

    Arguments, return and errors as in `train_assist`. The configuration of the new folder asks for
    [SEG] as before: `query_source` is for those who have read the figures.
    """

    def build(model: Calico, tokenizer: Tokenizer) -> SpanTask:
        lessons = SpanLessonFolder(
            out / "lessons",
            model,
            tokenizer,
            ScenePool(pool),
            seed=recipe.seed,
            chunks=recipe.chunks,
        )
        lessons.fill(lambda done, total: on_progress(TrainingProgress("encoding", done, total)))
        model.add_on(["span_head"])  # a new one, whatever the weights have
        head = model.span_head
        assert head is not None
        return SpanTask(model, head.train(), recipe, lessons)

    return train_add_on("spans", recipe, weights, out, build, on_progress=on_progress, stop=stop)


class SpanTask(AddOnTask):
    """The span head in front of a frozen mask decoder."""

    def __init__(
        self, model: Calico, head: SpanHead, recipe: SpanRecipe, lessons: SpanLessonFolder
    ) -> None:
        super().__init__()
        self.span_head, self._recipe, self._lessons = head, recipe, lessons
        self._model = (model,)  # in a tuple: not a part of this module

    def training_step(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Tags the answers of a chunk, and draws some of their masks."""
        lessons, rng = self._lessons.draw(step)
        picked = torch.from_numpy(rng.permutation(len(lessons.image))[: self._recipe.masks])
        torch.manual_seed(step)  # of the dropout, so that a resumed run ends alike
        return span_losses(self._model[0], self.span_head, lessons, picked, self._recipe)


def span_losses(
    model: Calico, head: SpanHead, lessons: SpanLessons, picked: Tensor, recipe: SpanRecipe
) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the loss of a chunk, and terms and metrics without gradient.

    Args:
        model: frozen.
        head: of the model; learns.
        lessons: answers and masks.
        picked: (k,) int64, the masks to draw.
        recipe: weights of the terms.
    """
    is_token = lessons.tags >= 0
    logits = head.tag(lessons.states.float(), is_token)
    queries = head.query(lessons.phrase[picked].float(), lessons.rows[picked].float())
    image, place = torch.unique(lessons.image[picked], return_inverse=True)
    features = MaskFeatures(
        lessons.features.embedding[image].float(),
        tuple(fine[image].float() for fine in lessons.features.fine),
    )
    sparse = model.segmentation_projection(queries)[:, None]
    drawn, _ = model.mask_decoder(features, place, sparse)
    masks, target = drawn[:, 0], lessons.target[picked].float() / 255
    terms = {
        "tags": recipe.tag_weight * tag_loss(logits, lessons.tags),
        "anchor": recipe.anchor_weight * anchor_loss(queries, lessons.anchor[picked]),
        "pixel": PIXEL_WEIGHT * pixel_loss(masks, target).mean(),
        "dice": DICE_WEIGHT * dice_loss(masks, target).mean(),
    }
    total = torch.stack(list(terms.values())).sum()
    shown = {name: term.detach() for name, term in terms.items()}
    shown["iou"] = hard_iou(masks, target).mean()
    with torch.no_grad():
        right = logits.argmax(-1) == lessons.tags
        shown["tags_right"] = right[is_token].float().mean()
    return total, shown
