"""Training of exemplar prompts and mask memory, the two add-ons that help an annotator.

A step looks for outlined parts in another image of their group, and decodes parts after other parts
of the same image. Only `exemplar.*` and `mask_memory.*` change.
Legend: n questions, h remembered masks, L logit side, C prompt width, S scene side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from calico_model.data.comparison import MIN_PART_SHARE
from calico_model.errors import InvalidConfigError
from calico_model.interactive.propagate.repeated import middle, spot
from calico_model.modeling.exemplar_prompt import prototypes
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.losses import (
    DICE_WEIGHT,
    PIXEL_WEIGHT,
    dice_loss,
    hard_iou,
    pixel_loss,
)
from calico_model.modeling.mask_decoder import coverage_logits
from calico_model.modeling.mask_memory import History, MaskSource
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.training.add_ons.annotators import pieces_of
from calico_model.training.add_ons.encoded_groups import (
    GROUP_SIZE,
    EncodedGroupFolder,
    EncodedGroups,
    fill_groups,
)
from calico_model.training.add_ons.recipes import AssistRecipe
from calico_model.training.add_ons.run import AddOnTask, train_add_on
from calico_model.training.engine import OnProgress, ignore_progress
from calico_model.types import BoolMask

TAUGHT = ("exemplar", "mask_memory")
"""The add-ons that learn here; others that the weights have stay as they are."""
MOST_PIECES = 6
_ABSENT_SHARE, _REPEATED_SHARE, _PREDICTED_SHARE = 0.25, 0.7, 0.3
_MOST_REMEMBERED = 4
_UNSURE_LOGIT = 4.0


@dataclass(frozen=True)
class ExemplarBatch:
    """n outlined parts, each with an image to find the same part in.

    Attributes:
        source: (n,) int64 image of each outline.
        shares: (n, L, L) the outline, share of each cell.
        image: (n,) int64 image to search.
        target: (n, L, L) the part in that image, share of each cell; zeros if it is absent.
        is_there: (n,) bool, whether the image shows the part.
    """

    source: Tensor
    shares: Tensor
    image: Tensor
    target: Tensor
    is_there: Tensor


@dataclass(frozen=True)
class MemoryBatch:
    """n masks to decode after other masks of the same image.

    Attributes:
        image: (n,) int64.
        sparse: (n, C) [SEG] prompts.
        history: the other masks.
        target: (n, L, L) share of each cell.
    """

    image: Tensor
    sparse: Tensor
    history: History
    target: Tensor


def train_assist(
    recipe: AssistRecipe,
    weights: Path,
    pool: Path,
    out: Path,
    *,
    on_progress: OnProgress = ignore_progress,
    stop: Callable[[], bool] = lambda: False,
) -> Path | None:
    """Adds the two add-ons, trained afresh, to a model folder.

    Args:
        recipe: what to do; the same recipe and folders resume an interrupted run.
        weights: model folder; other add-ons it has stay as they are.
        pool: rendered scenes (see `pool.fill_pool`).
        out: gets `lessons/`, the encoded scenes, and what `train_add_on` writes.
        on_progress: called after each chunk of encoded scenes and every few steps.
        stop: asked every step; True saves the state and returns.

    Returns:
        The new model folder; None when it was stopped before the end.

    Raises:
        CheckpointError: broken weights or state.
        InvalidConfigError: the run in `out` was started with another recipe or other weights, or
            the scenes share no parts.
        InvalidRecordError: no scenes.
    """

    def build(model: Calico, tokenizer: Tokenizer) -> AssistTask:
        groups = fill_groups(model, tokenizer, recipe, pool, out, on_progress)
        model.exemplar = model.mask_memory = None
        model.add_on(TAUGHT)
        return AssistTask(model, recipe, groups)

    return train_add_on("assist", recipe, weights, out, build, on_progress=on_progress, stop=stop)


class AssistTask(AddOnTask):
    """The two add-ons in front of a frozen mask decoder."""

    def __init__(self, model: Calico, recipe: AssistRecipe, groups: EncodedGroupFolder) -> None:
        super().__init__()
        assert model.exemplar is not None
        assert model.mask_memory is not None
        self.exemplar, self.memory = model.exemplar, model.mask_memory
        self._decoder = (model.mask_decoder,)  # in a tuple: not a part of this module
        self._recipe, self._groups, self._side = recipe, groups, model.config.mask_side

    def training_step(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Draws exemplars and memories from a chunk of encoded groups and runs them."""
        groups, rng = self._groups.draw(step)
        exemplars = draw_exemplars(groups, rng, self._recipe.exemplars, self._side)
        memories = draw_memories(groups, rng, self._recipe.memories, self._side)
        if not len(exemplars.image) or not len(memories.image):
            raise InvalidConfigError("pool: expected scenes that share parts, found none")
        return self._losses(groups.features, exemplars, memories, step)

    def _losses(
        self, features: ImageFeatures, exemplars: ExemplarBatch, memories: MemoryBatch, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss, and terms and metrics without gradient."""
        (decoder,) = self._decoder
        none = decoder.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        wanted = prototypes(features, exemplars.source, exemplars.shares)
        sparse, added, presence = self.exemplar(features, exemplars.image, wanted)
        generator = torch.Generator().manual_seed(seed)
        kept = torch.rand(len(sparse), generator=generator) >= self._recipe.sparse_dropout
        sparse = sparse * kept[:, None, None].to(sparse)
        sought, _ = decoder(features.mask, exemplars.image, sparse, none + added)
        remembered, _ = decoder(
            features.mask,
            memories.image,
            memories.sparse[:, None],
            none + self.memory(memories.history),
        )
        is_there = exemplars.is_there
        terms = {
            "exemplar": _mask_loss(sought[is_there, 0], exemplars.target[is_there]),
            "presence": functional.binary_cross_entropy_with_logits(presence, is_there.float()),
            "memory": _mask_loss(remembered[:, 0], memories.target),
        }
        if not bool(is_there.all()):
            absent = pixel_loss(sought[~is_there, 0], exemplars.target[~is_there]).mean()
            terms["absent"] = self._recipe.absent_weight * PIXEL_WEIGHT * absent
        total = torch.stack(list(terms.values())).sum()
        shown = {name: term.detach() for name, term in terms.items()}
        shown["exemplar_iou"] = hard_iou(sought[is_there, 0], exemplars.target[is_there]).mean()
        shown["memory_iou"] = hard_iou(remembered[:, 0], memories.target).mean()
        shown["presence_right"] = ((presence > 0) == is_there).float().mean()
        return total, shown


def draw_exemplars(
    groups: EncodedGroups, rng: np.random.Generator, count: int, side: int
) -> ExemplarBatch:
    """Draws n outlines, each with the other image of its pair; some images lack the part."""
    total = len(groups.parts)
    visible = [_visible(groups.parts[k]) for k in range(total)]
    there, absent = [], []
    for k in range(total):
        first = k - k % GROUP_SIZE
        for other in range(first, first + GROUP_SIZE):
            if other != k:
                there += [(k, other, part) for part in visible[k] & visible[other]]
                hidden = visible[k] - set(groups.parts[other].flatten().tolist())
                absent += [(k, other, part) for part in hidden]
    missing = min(len(absent), round(_ABSENT_SHARE * count))
    picked = _pick(rng, sorted(there), count - missing) + _pick(rng, sorted(absent), missing)
    source, image, part = torch.tensor(picked).reshape(-1, 3).T
    shares = _shares(groups.parts[source] == part[:, None, None], side)
    target = _shares(groups.parts[image] == part[:, None, None], side)
    return ExemplarBatch(source, shares, image, target, target.flatten(1).any(1))


def draw_memories(
    groups: EncodedGroups, rng: np.random.Generator, count: int, side: int
) -> MemoryBatch:
    """Draws n masks to decode: a piece of a part after other pieces, or a part after others."""
    order = [int(k) for k in rng.permutation(len(groups.prompt))]
    rows: list[_Row] = []
    for draw, most in ((_alike, round(_REPEATED_SHARE * count)), (_beside, count)):
        for index in order:
            if len(rows) < most and (row := draw(groups, index, rng)) is not None:
                rows.append(row)
    return _stack(groups, rows, rng, side)


@dataclass(frozen=True)
class _Row:
    """One mask to decode, and the remembered ones: mask, number of its prompt, source."""

    prompt: int
    target: BoolMask
    remembered: list[tuple[BoolMask, int, MaskSource]]


def _alike(groups: EncodedGroups, index: int, rng: np.random.Generator) -> _Row | None:
    """A piece of a part in several pieces: others are outlined already, a spot marks the next."""
    mask = groups.parts[groups.prompt_image[index]].numpy() == int(groups.prompt_part[index])
    pieces = pieces_of(mask)
    if not 2 <= len(pieces) <= MOST_PIECES:
        return None
    order = rng.permutation(len(pieces))
    known = int(rng.integers(len(pieces)))
    remembered = [(pieces[int(k)], index, _source(rng)) for k in order[:known]]
    target = pieces[int(order[known])]
    return _Row(index, target, [*remembered, (target, index, MaskSource.SOUGHT)])


def _beside(groups: EncodedGroups, index: int, rng: np.random.Generator) -> _Row | None:
    """A whole part, with some of the image's other parts outlined already."""
    image = int(groups.prompt_image[index])
    parts = groups.parts[image].numpy()
    target = parts == int(groups.prompt_part[index])
    if not target.any():
        return None
    siblings = [k for k in torch.nonzero(groups.prompt_image == image)[:, 0].tolist() if k != index]
    masks = [(parts == int(groups.prompt_part[k]), k) for k in siblings]
    shown = [(mask, k) for mask, k in masks if mask.any()]
    known = int(rng.integers(min(len(shown), _MOST_REMEMBERED) + 1))
    chosen = [shown[int(k)] for k in rng.permutation(len(shown))[:known]]
    return _Row(index, target, [(m, k, _source(rng)) for m, k in chosen])


def _source(rng: np.random.Generator) -> MaskSource:
    return MaskSource.PREDICTED if rng.random() < _PREDICTED_SHARE else MaskSource.APPROVED


def _stack(
    groups: EncodedGroups, rows: list[_Row], rng: np.random.Generator, side: int
) -> MemoryBatch:
    longest = max(1, *(len(row.remembered) for row in rows))
    width = groups.prompt.shape[1]
    logits = torch.zeros(len(rows), longest, side, side)
    queries = torch.zeros(len(rows), longest, width)
    source = torch.zeros(len(rows), longest, dtype=torch.long)
    is_there = torch.zeros(len(rows), longest, dtype=torch.bool)
    for n, row in enumerate(rows):
        for h, (mask, prompt, kind) in enumerate(row.remembered):
            logits[n, h] = _remembered(mask, kind, rng, side)
            queries[n, h] = groups.prompt[prompt]
            source[n, h] = int(kind)
            is_there[n, h] = True
    index = torch.tensor([row.prompt for row in rows])
    masks = torch.from_numpy(np.stack([row.target for row in rows]))
    return MemoryBatch(
        groups.prompt_image[index],
        groups.prompt[index],
        History(logits, queries, source, is_there),
        _shares(masks, side),
    )


def _remembered(mask: BoolMask, kind: MaskSource, rng: np.random.Generator, side: int) -> Tensor:
    """(L, L) logits of an annotator's mask, of a rough prediction of it, or of a spot inside it."""
    scale = side / mask.shape[0]
    if kind is MaskSource.SOUGHT:
        row, column = middle(mask)
        if rng.random() < 0.5:
            inside = np.argwhere(mask)
            row, column = inside[int(rng.integers(len(inside)))] + 0.5
        return spot(row * scale, column * scale, side)
    shares = _shares(torch.from_numpy(mask)[None], side)[0]
    if kind is MaskSource.PREDICTED:
        shift = rng.integers(-1, 2, size=2)
        moved = torch.roll(shares, (int(shift[0]), int(shift[1])), (0, 1))
        soft = functional.avg_pool2d(moved[None], 3, 1, 1)[0]
        return (2 * soft - 1) * _UNSURE_LOGIT
    return coverage_logits(shares)


def _visible(parts: Tensor) -> set[int]:
    areas = torch.bincount(parts.flatten().long())
    least = MIN_PART_SHARE * parts.numel()
    return {code for code in range(1, len(areas)) if areas[code] >= least}


def _pick(
    rng: np.random.Generator, options: list[tuple[int, int, int]], count: int
) -> list[tuple[int, int, int]]:
    return [options[int(k)] for k in rng.permutation(len(options))[:count]]


def _shares(masks: Tensor, side: int) -> Tensor:
    """(n, S, S) bool to the share of each of L x L cells inside."""
    return functional.adaptive_avg_pool2d(masks.float()[:, None], side)[:, 0]


def _mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    pixel, dice = pixel_loss(logits, target).mean(), dice_loss(logits, target).mean()
    return PIXEL_WEIGHT * pixel + DICE_WEIGHT * dice
