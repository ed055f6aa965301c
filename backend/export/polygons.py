"""Masks -> outlines, for formats that hold no masks.

Outlines run a quarter of a pixel inside the outermost pixels. So they hold exactly the centres of
the mask's pixels, and numbers that are cut to integers name these pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from calico_model.masks import mask_iou, window_of
from calico_model.types import BoolMask

Ring = NDArray[np.float64]
"""(P, 2) x and y in pixels of one closed line."""

_TOLERANCE = 0.35  # pixels that a simpler line may lie beside the exact one
_MOST_TOLERANCE = 3.0  # beyond it, specks are left out rather than shapes made coarse
_GOOD_IOU = 0.99  # of a simpler line
_LEAST_CORNERS = 3


@dataclass(frozen=True)
class MaskOutline:
    """The lines around a mask, the longest first.

    Attributes:
        outer: around each piece.
        holes: around each hole.
    """

    outer: tuple[Ring, ...]
    holes: tuple[Ring, ...]


def outline(mask: BoolMask, tolerance: float = _TOLERANCE) -> MaskOutline:
    """Returns the lines around a mask.

    Args:
        mask: (H, W) with at least one pixel.
        tolerance: how many pixels a line may lie beside the exact one; 0 keeps every step.
    """
    window = window_of(mask)
    assert window is not None  # the mask has pixels
    top, left = window[0].start, window[1].start
    cut = mask[window].astype(np.uint8)
    # Twice the size, so that a piece one pixel wide still has two sides.
    doubled = cv2.resize(cut, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    lines, tree = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    outer: list[Ring] = []
    holes: list[Ring] = []
    for line, (_, _, _, parent) in zip(lines, tree[0], strict=True):
        simple = cv2.approxPolyDP(line, 2 * tolerance, closed=True) if tolerance else line
        kept = simple if len(simple) >= _LEAST_CORNERS else line
        corners = (kept.reshape(-1, 2).astype(np.float64) + 0.5) / 2 + (left, top)
        if len(corners) >= _LEAST_CORNERS:
            (outer if parent < 0 else holes).append(corners)
    return MaskOutline(
        tuple(sorted(outer, key=len, reverse=True)), tuple(sorted(holes, key=len, reverse=True))
    )


def single_line(mask: BoolMask, *, most_corners: int) -> Ring:
    """Returns one line around all pieces and holes of a mask.

    Pieces and holes are joined where they are nearest to each other, by a line there and back.
    Drawn by the even-odd rule, as by OpenCV's fillPoly, holes stay holes.

    Args:
        mask: (H, W) with at least one pixel.
        most_corners: a longer line is made simpler, up to 3 pixels; then the smallest pieces and
            holes are left out.
    """
    simple = _line_of(mask, _TOLERANCE, most_corners)
    size_hw = (mask.shape[0], mask.shape[1])
    if simple is not None and mask_iou(fill_line(simple, size_hw), mask) >= _GOOD_IOU:
        return simple
    tolerance = 0.0  # small and thin masks need every step
    while tolerance <= _MOST_TOLERANCE:
        line = _line_of(mask, tolerance, most_corners)
        if line is not None:
            return line
        tolerance = 1.5 * tolerance or _TOLERANCE
    found = outline(mask, _MOST_TOLERANCE)
    rings = sorted((*found.outer, *found.holes), key=_area, reverse=True)
    while len(rings) > 1 and _corner_count(rings) > most_corners:
        rings.pop()
    return _joined(rings)


def _line_of(mask: BoolMask, tolerance: float, most_corners: int) -> Ring | None:
    """Returns the one line around a mask, None if it has too many corners."""
    found = outline(mask, tolerance)
    rings = [*found.outer, *found.holes]
    return _joined(rings) if _corner_count(rings) <= most_corners else None


def fill_line(line: Ring, size_hw: tuple[int, int]) -> BoolMask:
    """Returns the mask of a line as ultralytics draws it: cut to integers, even-odd, with its edge.

    Args:
        line: (P, 2) x and y in pixels.
        size_hw: (height, width) in pixels.
    """
    drawn = np.zeros(size_hw, np.uint8)
    cv2.fillPoly(drawn, [line.astype(np.int32)], 1)
    return drawn.astype(np.bool_)


def _corner_count(rings: Sequence[Ring]) -> int:
    return sum(len(ring) + 2 for ring in rings) - 2  # each joint repeats two corners


def _area(ring: Ring) -> float:
    return float(cv2.contourArea(ring.astype(np.float32)))


def _joined(rings: Sequence[Ring]) -> Ring:
    line, *others = rings
    for ring in others:
        distances = np.square(line[:, None, :] - ring[None, :, :]).sum(axis=2)
        at, start = np.unravel_index(int(distances.argmin()), distances.shape)
        there_and_back = np.roll(ring, -int(start), axis=0)
        line = np.concatenate(
            [line[: at + 1], there_and_back, there_and_back[:1], line[at:]], axis=0
        )
    return line
