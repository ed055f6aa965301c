"""What one step of the add-ons' training asks: parts of one image in another, parts after parts.

Everything is drawn from the generator passed in.
Legend: n questions, h remembered masks, L logit side, C prompt width, S scene side.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from calico_model.data.comparison import MIN_PART_SHARE
from calico_model.interactive.propagate.repeated import middle, spot
from calico_model.modeling.mask_decoder import coverage_logits
from calico_model.modeling.mask_memory import History, MaskSource
from calico_model.training.add_ons.assist_lessons import GROUP_SIZE, Lessons
from calico_model.types import BoolMask

MIN_PIECE_SHARE = 0.001
"""Smallest share of the image at which one of several alike parts counts."""
MOST_PIECES = 6
_ABSENT_SHARE, _REPEATED_SHARE, _PREDICTED_SHARE = 0.25, 0.7, 0.3
_MOST_REMEMBERED = 4
_UNSURE_LOGIT = 4.0


@dataclass(frozen=True)
class ExemplarBatch:
    """n outlined parts and the images they are sought in.

    Attributes:
        source: (n,) int64 image of each outline.
        shares: (n, L, L) the outline, share of each cell.
        image: (n,) int64 image to search.
        target: (n, L, L) the part there, zeros if it is absent.
        is_there: (n,) bool.
    """

    source: Tensor
    shares: Tensor
    image: Tensor
    target: Tensor
    is_there: Tensor


@dataclass(frozen=True)
class MemoryBatch:
    """n masks to decode behind a history.

    Attributes:
        image: (n,) int64.
        sparse: (n, C) [SEG] prompts.
        history: what is remembered.
        target: (n, L, L) share of each cell.
    """

    image: Tensor
    sparse: Tensor
    history: History
    target: Tensor


def pieces_of(mask: BoolMask) -> list[BoolMask]:
    """Returns the 8-connected pieces of a mask that are large enough to count, largest first.

    Args:
        mask: (S, S) bool.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = stats[1:count, cv2.CC_STAT_AREA]
    large = [k for k in np.argsort(-areas) if areas[k] >= MIN_PIECE_SHARE * mask.size]
    return [labels == k + 1 for k in large]


def draw_exemplars(
    lessons: Lessons, rng: np.random.Generator, count: int, side: int
) -> ExemplarBatch:
    """Draws n outlines with the image beside them; some of the parts are not there."""
    total = len(lessons.parts)
    seen = [_visible(lessons.parts[k]) for k in range(total)]
    there, absent = [], []
    for k in range(total):
        first = k - k % GROUP_SIZE
        for other in range(first, first + GROUP_SIZE):
            if other != k:
                there += [(k, other, part) for part in seen[k] & seen[other]]
                unseen = seen[k] - set(lessons.parts[other].flatten().tolist())
                absent += [(k, other, part) for part in unseen]
    missing = min(len(absent), round(_ABSENT_SHARE * count))
    picked = _pick(rng, sorted(there), count - missing) + _pick(rng, sorted(absent), missing)
    source, image, part = torch.tensor(picked).reshape(-1, 3).T
    shares = _shares(lessons.parts[source] == part[:, None, None], side)
    target = _shares(lessons.parts[image] == part[:, None, None], side)
    return ExemplarBatch(source, shares, image, target, target.flatten(1).any(1))


def draw_memories(lessons: Lessons, rng: np.random.Generator, count: int, side: int) -> MemoryBatch:
    """Draws n parts to decode behind others: one of several alike, or one beside its siblings."""
    order = [int(k) for k in rng.permutation(len(lessons.prompt))]
    rows: list[_Row] = []
    for draw, most in ((_alike, round(_REPEATED_SHARE * count)), (_beside, count)):
        for index in order:
            if len(rows) < most and (row := draw(lessons, index, rng)) is not None:
                rows.append(row)
    return _stack(lessons, rows, rng, side)


@dataclass(frozen=True)
class _Row:
    """One question: the mask, and what is remembered (mask, prompt, source)."""

    prompt: int
    target: BoolMask
    remembered: list[tuple[BoolMask, int, MaskSource]]


def _alike(lessons: Lessons, index: int, rng: np.random.Generator) -> _Row | None:
    """One piece of a part in several pieces: some are outlined already, a spot says which next."""
    own = lessons.parts[lessons.prompt_image[index]].numpy() == int(lessons.prompt_part[index])
    pieces = pieces_of(own)
    if not 2 <= len(pieces) <= MOST_PIECES:
        return None
    order = rng.permutation(len(pieces))
    known = int(rng.integers(len(pieces)))
    remembered = [(pieces[int(k)], index, _source(rng)) for k in order[:known]]
    target = pieces[int(order[known])]
    return _Row(index, target, [*remembered, (target, index, MaskSource.SOUGHT)])


def _beside(lessons: Lessons, index: int, rng: np.random.Generator) -> _Row | None:
    """A whole part, with some of its siblings outlined already."""
    image = int(lessons.prompt_image[index])
    parts = lessons.parts[image].numpy()
    target = parts == int(lessons.prompt_part[index])
    if not target.any():
        return None
    siblings = [
        k for k in torch.nonzero(lessons.prompt_image == image)[:, 0].tolist() if k != index
    ]
    masks = [(parts == int(lessons.prompt_part[k]), k) for k in siblings]
    shown = [(mask, k) for mask, k in masks if mask.any()]
    known = int(rng.integers(min(len(shown), _MOST_REMEMBERED) + 1))
    chosen = [shown[int(k)] for k in rng.permutation(len(shown))[:known]]
    return _Row(index, target, [(m, k, _source(rng)) for m, k in chosen])


def _source(rng: np.random.Generator) -> MaskSource:
    return MaskSource.PREDICTED if rng.random() < _PREDICTED_SHARE else MaskSource.APPROVED


def _stack(lessons: Lessons, rows: list[_Row], rng: np.random.Generator, side: int) -> MemoryBatch:
    longest = max(1, *(len(row.remembered) for row in rows))
    width = lessons.prompt.shape[1]
    logits = torch.zeros(len(rows), longest, side, side)
    queries = torch.zeros(len(rows), longest, width)
    source = torch.zeros(len(rows), longest, dtype=torch.long)
    is_there = torch.zeros(len(rows), longest, dtype=torch.bool)
    for n, row in enumerate(rows):
        for h, (mask, prompt, kind) in enumerate(row.remembered):
            logits[n, h] = _remembered(mask, kind, rng, side)
            queries[n, h] = lessons.prompt[prompt]
            source[n, h] = int(kind)
            is_there[n, h] = True
    index = torch.tensor([row.prompt for row in rows])
    masks = torch.from_numpy(np.stack([row.target for row in rows]))
    return MemoryBatch(
        lessons.prompt_image[index],
        lessons.prompt[index],
        History(logits, queries, source, is_there),
        _shares(masks, side),
    )


def _remembered(mask: BoolMask, kind: MaskSource, rng: np.random.Generator, side: int) -> Tensor:
    """An annotator's mask, a rough prediction of it, or a spot somewhere deep inside it."""
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
