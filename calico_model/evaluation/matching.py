"""Which prediction stands for which truth: overlaps and the four ways of pairing them.

Legend: P predictions, T truths of one image. Knows masks, matrices and label strings; not images,
models or metrics. A pair is (prediction, truth), both 0-based; ties go to the lower index.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calico_model.errors import InvalidMaskError
from calico_model.evaluation.regions import Crop, cut, shared_pixels
from calico_model.types import BoolMask

FloatArray = NDArray[np.float64]
Pairs = tuple[tuple[int, int], ...]


def intersections(
    predicted: Sequence[BoolMask | Crop], truth: Sequence[BoolMask | Crop]
) -> FloatArray:
    """Counts shared pixels.

    Args:
        predicted: P masks (H, W) bool, whole or cut.
        truth: T masks of the same size.

    Returns:
        (P, T) shared pixels.

    Raises:
        InvalidMaskError: two masks differ in size.
    """
    ours, theirs = [cut(mask) for mask in predicted], [cut(mask) for mask in truth]
    shared = np.zeros((len(ours), len(theirs)))
    for row, mine in enumerate(ours):
        for column, other in enumerate(theirs):
            if mine.size_hw != other.size_hw:
                raise InvalidMaskError(
                    f"predicted[{row}]: expected the size of truth {other.size_hw}, "
                    f"got {mine.size_hw}"
                )
            shared[row, column] = shared_pixels(mine, other)
    return shared


def areas(masks: Sequence[BoolMask | Crop]) -> FloatArray:
    """Returns the pixels of each mask, (P,)."""
    return np.array([cut(mask).area for mask in masks], dtype=np.float64)


def iou_of(
    intersection: FloatArray, predicted_area: FloatArray, truth_area: FloatArray
) -> FloatArray:
    """(P, T) shared pixels and areas -> IoU in [0, 1]; two empty masks 1, one empty 0."""
    union = predicted_area[:, None] + truth_area[None, :] - intersection  # (P, T)
    return np.where(union > 0, intersection / np.maximum(union, 1.0), 1.0)


def iou_matrix(
    predicted: Sequence[BoolMask | Crop], truth: Sequence[BoolMask | Crop]
) -> FloatArray:
    """Returns the IoU of every prediction with every truth, (P, T) in [0, 1]."""
    ours, theirs = [cut(mask) for mask in predicted], [cut(mask) for mask in truth]
    return iou_of(intersections(ours, theirs), areas(ours), areas(theirs))


def hungarian(iou: FloatArray) -> Pairs:
    """One-to-one pairs of largest total IoU; pairs without overlap are dropped."""
    if 0 in iou.shape:
        return ()
    wide = iou if iou.shape[0] <= iou.shape[1] else iou.T
    chosen = _cheapest_columns(1.0 - wide)
    pairs = enumerate(chosen) if wide is iou else ((p, t) for t, p in enumerate(chosen))
    return tuple(sorted((p, t) for p, t in pairs if iou[p, t] > 0))


def greedy(iou: FloatArray) -> Pairs:
    """Pairs of largest remaining IoU first, in that order, until nothing overlaps."""
    left = iou.copy()
    pairs = []
    while left.size and left.max() > 0:
        row, column = divmod(int(left.argmax()), left.shape[1])
        pairs.append((row, column))
        left[row, :] = 0
        left[:, column] = 0
    return tuple(pairs)


def paired(predicted_labels: Sequence[str], truth_labels: Sequence[str]) -> Pairs:
    """Pairs by equal label string; of several equal predictions the first is taken."""
    free = dict(reversed([(label, row) for row, label in enumerate(predicted_labels)]))
    pairs = []
    for column, label in enumerate(truth_labels):
        row = free.pop(label, None)
        if row is not None:
            pairs.append((row, column))
    return tuple(sorted(pairs))


def _cheapest_columns(cost: FloatArray) -> list[int]:
    """The column of each row in the assignment of least total cost, for rows <= columns.

    Shortest augmenting paths with dual prices (Jonker and Volgenant 1987): every row in turn finds
    its cheapest way to a free column, over rows that may have to move. O(rows^2 x columns).
    """
    rows, columns = cost.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    owner = np.full(columns, -1)  # the row that holds each column
    for row in range(rows):
        reach = np.full(columns, np.inf)  # least cost of a path from `row` to each column
        came_from = np.full(columns, -1)
        done = np.zeros(columns, dtype=bool)
        current, column, base = row, -1, 0.0
        while current >= 0:
            through = base + cost[current] - row_price[current] - column_price
            better = ~done & (through < reach)
            reach[better] = through[better]
            came_from[better] = column
            column = int(np.where(done, np.inf, reach).argmin())
            base = float(reach[column])
            done[column] = True
            current = int(owner[column])
        row_price[row] += base
        held = done & (owner >= 0)
        row_price[owner[held]] += base - reach[held]
        column_price[held] -= base - reach[held]
        while column >= 0:
            before = int(came_from[column])
            owner[column] = owner[before] if before >= 0 else row
            column = before
    return [int(np.flatnonzero(owner == row)[0]) for row in range(rows)]
