"""Run-length encoding of masks, and IoU computed from the runs.

A mask of a megapixel has some hundred runs. Knows arrays only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calico_model.types import BoolMask

Positions = NDArray[np.int64]
Runs = NDArray[np.int64]
"""(R, 2) int64: first and past-last row-major position of each run, rising, not touching."""

_FEW = 4096  # up to so many runs, a loop is the fastest
_ALL_INSIDE = np.uint64(0x0101010101010101)  # eight True pixels read as one word


def runs_of(mask: BoolMask) -> Runs:
    """Returns the runs of an (H, W) mask."""
    flat = np.ascontiguousarray(mask).reshape(-1)
    if not flat.size:
        return np.zeros((0, 2), np.int64)
    first, last = ([0] if flat[0] else []), ([flat.size] if flat[-1] else [])
    return np.concatenate((first, changes_of(flat), last)).astype(np.int64).reshape(-1, 2)


def mask_of(runs: Runs, size_hw: tuple[int, int]) -> BoolMask:
    """Returns the (H, W) mask of runs."""
    height, width = size_hw
    if len(runs) <= _FEW:
        flat = np.zeros(height * width, np.bool_)
        for first, end in runs.tolist():
            flat[first:end] = True
    else:
        lengths = np.diff(runs.reshape(-1), prepend=0, append=height * width)
        flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return flat.reshape(size_hw)


def small_mask_of(runs: Runs, size_hw: tuple[int, int], shown_hw: tuple[int, int]) -> BoolMask:
    """Returns a mask scaled to another size by nearest neighbour, without decoding its full size.

    Args:
        runs: of an (H, W) mask.
        size_hw: (H, W) in pixels.
        shown_hw: (height, width) of the returned mask; each pixel takes the value at its centre.
    """
    rows, columns = (
        (np.arange(shown) * 2 + 1) * size // (2 * shown)
        for size, shown in zip(size_hw, shown_hw, strict=True)
    )
    if not len(runs):
        return np.zeros(shown_hw, np.bool_)
    positions = rows[:, None] * size_hw[1] + columns[None, :]
    at = np.searchsorted(runs[:, 0], positions, side="right") - 1
    mask: BoolMask = (at >= 0) & (positions < runs[at, 1])
    return mask


def pack_runs(runs: Runs) -> bytes:
    """Returns runs as bytes: the steps between their ends, which are small and alike."""
    return np.diff(runs.reshape(-1), prepend=0).astype("<i8").tobytes()


def unpack_runs(packed: bytes) -> Runs:
    """Returns the runs of `pack_runs`.

    Raises:
        ValueError: the bytes are no whole runs.
    """
    return np.cumsum(np.frombuffer(packed, "<i8")).reshape(-1, 2)


def changes_of(flat: BoolMask) -> Positions:
    """Returns the positions > 0 of a flat mask whose value differs from the one before, rising."""
    # Eight pixels at a time: most words are equal to the word before.
    whole = flat.size // 8 * 8
    words = flat[:whole].view(np.uint64)
    different = words[1:] != words[:-1]
    if whole < flat.size or np.count_nonzero(different) * 32 > words.size:
        return np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate(([0], np.flatnonzero(different) + 1))
    lengths = np.diff(starts, append=words.size)
    # Within equal words a change is possible only if the word itself is mixed.
    is_plain = (words[starts] == 0) | (words[starts] == _ALL_INSIDE)
    checked = np.where(is_plain, 1, lengths)
    before = np.cumsum(checked) - checked
    word = np.repeat(starts - before, checked) + np.arange(int(checked.sum()))
    places = (word[:, None] * 8 + np.arange(8)).reshape(-1)[1:]
    changes: Positions = places[flat[places] != flat[places - 1]]
    return changes


def length_of(runs: Runs) -> int:
    """Returns the number of positions in the runs."""
    return int((runs[:, 1] - runs[:, 0]).sum())


def iou_of(runs: Runs, others: Runs, *, least: float = 0.0) -> float:
    """Returns the IoU of two masks by their runs.

    Args:
        runs, others: of masks of one size.
        least: for an IoU below it, 0.0 may be returned instead, which is faster.
    """
    if not len(runs) or not len(others):
        return 0.0
    if runs[-1, 1] <= others[0, 0] or others[-1, 1] <= runs[0, 0]:
        return 0.0
    size, other = length_of(runs), length_of(others)
    if min(size, other) < least * max(size, other):
        return 0.0
    shared = int((_inside(runs, others[:, 1]) - _inside(runs, others[:, 0])).sum())
    return shared / (size + other - shared)


def _inside(runs: Runs, ends: Positions) -> Positions:
    """Number of positions before each end that are in the runs."""
    lengths = runs[:, 1] - runs[:, 0]
    last = np.searchsorted(runs[:, 0], ends) - 1  # the last run that begins before the end
    inside = np.minimum(ends - runs[last, 0], lengths[last])
    return np.where(last < 0, 0, np.cumsum(lengths)[last] - lengths[last] + inside)
