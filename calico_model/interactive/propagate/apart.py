"""The parts of one name, separated on the pixels of their image.

The refined mask of all parts of one name nearly always shows a gap between two parts: then each
connected region of the mask is a part. A region much larger than the others holds parts that touch:
there the mask memory draws one of them. Knows masks only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import cv2
import numpy as np

from calico_model.masks import extent_of
from calico_model.types import BoolMask

NextPart = Callable[[Sequence[BoolMask]], BoolMask | None]
"""Outlined parts -> one more part as the mask memory draws it, or None if it draws no more."""

_LEAST_SHARE = 0.1  # of the area of the largest part; smaller regions are remains
_ALIKE = 1.8  # times the median area; a larger region is several parts that touch
_RIM = 0.012  # of the image's longest side; how far two outlines of one part differ
_WITHIN = 0.3  # share of a region from which a drawn part is one of its parts


def tell_apart(
    whole: BoolMask, done: Sequence[BoolMask], next_part: NextPart, *, most: int
) -> list[BoolMask]:
    """Returns the single parts in a mask of all parts, without those that are outlined already.

    Args:
        whole: (H, W) bool, all parts of one name.
        done: (H, W) bool each, parts that are outlined already.
        next_part: called where parts touch, and once if no region remains.
        most: number of parts at most.

    Returns:
        (H, W) bool each, large ones first; connected, and apart from each other and from `done`.
    """
    outlined, parts = list(done), list[BoolMask]()
    remaining = _remaining(whole, outlined)
    while len(parts) < most and (remaining or not parts):
        if remaining and _is_alike(remaining, outlined):
            part: BoolMask | None = remaining[0]
        else:
            part = _draw_part(remaining, outlined, next_part)
        if part is None:
            break
        parts.append(part)
        outlined.append(part)
        is_largest = bool(remaining) and part is remaining[0]
        remaining = remaining[1:] if is_largest else _remaining(whole, outlined)
    return parts


def without(mask: BoolMask, others: Sequence[BoolMask]) -> BoolMask:
    """Returns the pixels of an (H, W) mask that no other mask has."""
    return reduce(lambda rest, other: rest & ~other, others, mask)


def connected_regions(mask: BoolMask, *, least: float = 0.0, beside: int = 0) -> list[BoolMask]:
    """Returns the 8-connected regions of an (H, W) mask, largest first.

    Args:
        mask: bool.
        least: share of the largest area from which a region counts.
        beside: area in pixels of another thing; it counts as the largest if it is.
    """
    window = _window(mask)
    if window is None:
        return []
    inside = mask[window].astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(inside)
    areas = stats[1:count, cv2.CC_STAT_AREA]
    largest = max(int(areas.max()), beside)
    order = [k for k in np.argsort(-areas, kind="stable") if areas[k] >= least * largest]
    regions = [np.zeros(mask.shape, np.bool_) for _ in order]
    for region, k in zip(regions, order, strict=True):
        np.equal(labels, 1 + k, out=region[window])
    return regions


def _remaining(whole: BoolMask, outlined: Sequence[BoolMask]) -> list[BoolMask]:
    """Regions that may be further parts, largest first."""
    rest = without(whole, [_grown(mask) for mask in outlined])
    return connected_regions(rest, least=_LEAST_SHARE, beside=_largest_area(outlined))


def _draw_part(
    remaining: Sequence[BoolMask], outlined: Sequence[BoolMask], next_part: NextPart
) -> BoolMask | None:
    """The part that the mask memory draws; the largest remaining region, if that is nothing new.

    None if there is neither.
    """
    memory_part = next_part(outlined)
    largest = remaining[0] if remaining else None
    if memory_part is None:
        return largest
    new = without(memory_part, [_grown(mask) for mask in outlined])
    if not new.any() or _area(new) < _LEAST_SHARE * _largest_area([*remaining, *outlined]):
        return largest  # the memory drew a rim of an outlined part, or a speck
    drawn = without(memory_part, outlined)
    if not remaining:
        return connected_regions(drawn)[0]
    inside, around = max(
        ((drawn & region, region) for region in remaining), key=lambda pair: _area(pair[0])
    )
    is_within = _area(inside) > _WITHIN * _area(around)
    return connected_regions(inside if is_within else drawn)[0]


def _largest_area(masks: Sequence[BoolMask]) -> int:
    return max(map(_area, masks), default=0)


def _area(mask: BoolMask) -> int:
    return int(np.count_nonzero(mask))


def _is_alike(remaining: Sequence[BoolMask], outlined: Sequence[BoolMask]) -> bool:
    """Whether the largest remaining region is about as large as the other parts."""
    others = [_area(mask) for mask in (*remaining[1:], *outlined)]
    return bool(others) and _area(remaining[0]) <= _ALIKE * float(np.median(others))


def _grown(mask: BoolMask) -> BoolMask:
    """A mask with the rim by which two outlines of one part differ."""
    radius = max(1, round(_RIM * max(mask.shape)))
    grown = np.zeros(mask.shape, np.bool_)
    window = _window(mask, margin=radius)
    if window is not None:
        around = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
        np.greater(cv2.dilate(mask[window].astype(np.uint8), around), 0, out=grown[window])
    return grown


def _window(mask: BoolMask, *, margin: int = 0) -> tuple[slice, slice] | None:
    """Rows and columns of the True pixels, with a margin, or None; most masks are small."""
    extent = extent_of(mask)
    if extent is None:
        return None
    x0, y0, x1, y1 = map(int, extent)
    rows = slice(max(0, y0 - margin), y1 + margin)
    return rows, slice(max(0, x0 - margin), x1 + margin)
