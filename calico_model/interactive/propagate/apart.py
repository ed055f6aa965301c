"""Alike parts told apart on the pixels of their image.

The sharpened mask of all parts of one name nearly always shows a gap between two of them: then each
stretch of it is a part. Only where parts touch, which a stretch much larger than the others says,
the mask memory is asked for one of them. Knows masks only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import cv2
import numpy as np

from calico_model.inference.low_res_mask import extent_of
from calico_model.types import BoolMask

NextPart = Callable[[Sequence[BoolMask]], BoolMask | None]
"""Parts that are done -> one more as the mask memory draws it, or None if it sees no more."""

_LEAST_SHARE = 0.1  # of the largest part: smaller stretches are leftovers
_ALIKE = 1.8  # times the usual area: parts larger than that are several that touch
_RIM = 0.012  # of the image's longest side: how far two outlines of one part differ
_WITHIN = 0.3  # share of a stretch from which a drawn part is one of its parts


def tell_apart(
    whole: BoolMask, done: Sequence[BoolMask], next_part: NextPart, *, most: int
) -> list[BoolMask]:
    """Returns the parts that a mask of all of them holds, beside those that are done.

    Args:
        whole: (H, W) bool, all parts of one name.
        done: (H, W) bool each, parts that need not be found.
        next_part: asked where parts touch, and once if nothing is left.
        most: how many are wanted.

    Returns:
        (H, W) bool each, large ones first; connected, and apart from each other and from `done`.
    """
    taken, found = list(done), list[BoolMask]()
    left = _left(whole, taken)
    while len(found) < most and (left or not found):
        part = left[0] if left and _is_alike(left, taken) else _drawn(left, taken, next_part)
        if part is None:
            break
        found.append(part)
        taken.append(part)
        left = left[1:] if left and part is left[0] else _left(whole, taken)
    return found


def without(mask: BoolMask, others: Sequence[BoolMask]) -> BoolMask:
    """Returns what an (H, W) mask has and none of the others."""
    return reduce(lambda own, other: own & ~other, others, mask)


def stretches(mask: BoolMask, *, least: float = 0.0, beside: int = 0) -> list[BoolMask]:
    """Returns the 8-connected stretches of an (H, W) mask, largest first.

    Args:
        mask: bool.
        least: share of the largest from which a stretch counts.
        beside: pixels of something that may be larger than all of them.
    """
    place = _place_of(mask)
    if place is None:
        return []
    inside = mask[place].astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(inside)
    areas = stats[1:count, cv2.CC_STAT_AREA]
    largest = max(int(areas.max()), beside)
    order = [k for k in np.argsort(-areas, kind="stable") if areas[k] >= least * largest]
    found = [np.zeros(mask.shape, np.bool_) for _ in order]
    for own, k in zip(found, order, strict=True):
        np.equal(labels, 1 + k, out=own[place])
    return found


def _left(whole: BoolMask, taken: Sequence[BoolMask]) -> list[BoolMask]:
    """Stretches that may be parts, largest first."""
    rest = without(whole, [_grown(mask) for mask in taken])
    return stretches(rest, least=_LEAST_SHARE, beside=_largest(taken))


def _drawn(
    left: Sequence[BoolMask], taken: Sequence[BoolMask], next_part: NextPart
) -> BoolMask | None:
    """What the mask memory draws, or the largest stretch if that is nothing new; or None."""
    found = next_part(taken)
    usual = left[0] if left else None
    if found is None:
        return usual
    fresh = without(found, [_grown(mask) for mask in taken])
    if not fresh.any() or _area(fresh) < _LEAST_SHARE * _largest([*left, *taken]):
        return usual  # a rim of what is done, or a speck
    drawn = without(found, taken)
    if not left:
        return stretches(drawn)[0]
    inside, around = max(((drawn & mask, mask) for mask in left), key=lambda pair: _area(pair[0]))
    is_within = _area(inside) > _WITHIN * _area(around)
    return stretches(inside if is_within else drawn)[0]


def _largest(masks: Sequence[BoolMask]) -> int:
    return max(map(_area, masks), default=0)


def _area(mask: BoolMask) -> int:
    return int(np.count_nonzero(mask))


def _is_alike(left: Sequence[BoolMask], taken: Sequence[BoolMask]) -> bool:
    """Whether the largest stretch is about as large as the other parts."""
    others = [_area(mask) for mask in (*left[1:], *taken)]
    return bool(others) and _area(left[0]) <= _ALIKE * float(np.median(others))


def _grown(mask: BoolMask) -> BoolMask:
    radius = max(1, round(_RIM * max(mask.shape)))
    grown = np.zeros(mask.shape, np.bool_)
    place = _place_of(mask, margin=radius)
    if place is not None:
        around = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
        np.greater(cv2.dilate(mask[place].astype(np.uint8), around), 0, out=grown[place])
    return grown


def _place_of(mask: BoolMask, *, margin: int = 0) -> tuple[slice, slice] | None:
    """The rows and columns of the True pixels, with a margin; most masks are small."""
    found = extent_of(mask)
    if found is None:
        return None
    x0, y0, x1, y1 = map(int, found)
    rows = slice(max(0, y0 - margin), y1 + margin)
    return rows, slice(max(0, x0 - margin), x1 + margin)
