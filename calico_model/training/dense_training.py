"""Trains the body of the dense head behind a frozen CALICO, on drawn scenes.

What it learns to tell apart here, the parts of many things and things from the ground, is not what
projects want; but whoever tells those apart learns others from a handful of images. The rows of
this training are left behind but for where new ones begin.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from calico_model.data.catalogue import PART_NAMES
from calico_model.modeling.dense_head import WIDTH, DenseHead, DenseNames
from calico_model.modeling.model import Calico
from calico_model.training.add_on_run import AddOnProgress, teach_add_on
from calico_model.training.assist_lessons import Lessons
from calico_model.training.dense_batches import DenseBatch, dense_loss, varied
from calico_model.training.dense_recipe import DenseRecipe

_NAMES = DenseNames(PART_NAMES, ("the thing compared", "another thing"))


def train_dense(
    recipe: DenseRecipe,
    weights: Path,
    pool: Path,
    out: Path,
    *,
    on_progress: Callable[[AddOnProgress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Adds a trained dense head to a model folder; arguments as in `teach_add_on`."""

    def build(model: Calico, lessons: Callable[[int], Lessons]) -> DenseCourse:
        head = model.dense_head = DenseHead(model.config)
        head.standardise(head.levels(lessons(0).features))
        return DenseCourse(head, recipe)

    return teach_add_on(
        "dense head", recipe, build, weights, pool, out, on_progress=on_progress, stop=stop
    )


class DenseCourse(nn.Module):
    """The head with rows of this training's own."""

    def __init__(self, head: DenseHead, recipe: DenseRecipe) -> None:
        super().__init__()
        self.head, self._recipe = head, recipe
        self.rows = nn.Parameter(torch.randn(_NAMES.rows, WIDTH) * WIDTH**-0.5)

    def lesson(
        self, lessons: Lessons, rng: np.random.Generator, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs one step on some images of a chunk."""
        picked = torch.from_numpy(rng.choice(len(lessons.images), self._recipe.images))
        batch = varied(
            self._batch(lessons, picked),
            torch.Generator().manual_seed(step),
            unseen=self._recipe.unseen,
            mirrors=True,
        )
        with torch.autocast("cpu", torch.bfloat16):
            cells = self.head(batch.levels)
        logits = torch.einsum("rw,nwij->nrij", self.rows, cells.float())
        loss, overlap = dense_loss(logits, batch, _NAMES)
        parts = logits[:, : 1 + len(PART_NAMES)].detach()
        right = parts.argmax(1) == batch.parts.argmax(1)
        named = batch.parts[:, 0] < 0.5
        shown = {"loss": loss.detach(), "overlap": torch.tensor(overlap)}
        return loss, shown | {"right": right[named].float().mean()}

    @torch.no_grad()
    def finish(self) -> None:
        """Keeps where new rows begin."""
        parts = self.rows[: 1 + len(PART_NAMES)]
        self.head.first.copy_(torch.stack((parts[0], parts[1:].mean(0))))

    def _batch(self, lessons: Lessons, picked: Tensor) -> DenseBatch:
        whole = [self.head.levels(lessons.features.image(int(k))) for k in picked]
        levels = [torch.cat(several) for several in zip(*whole, strict=True)]
        side = levels[0].shape[-1]
        objects = lessons.objects[picked].clamp(max=len(_NAMES.objects))
        return DenseBatch(
            levels,
            _shares(lessons.parts[picked], 1 + len(_NAMES.parts), side),
            _shares(objects, 1 + len(_NAMES.objects), side),
            torch.ones(len(picked), 2),
        )


def _shares(codes: Tensor, count: int, side: int) -> Tensor:
    """(n, S, S) codes as (n, count, side, side) shares of each cell; side divides S."""
    n, size = len(codes), codes.shape[-1]
    each = size // side
    cells = codes.long().view(n, side, each, side, each).permute(0, 2, 4, 1, 3)
    cells = cells.reshape(n, each * each, side, side)
    found = torch.zeros(n, count, side, side)
    return found.scatter_add_(1, cells, torch.full(cells.shape, 1 / each**2))
