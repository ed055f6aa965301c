"""How many corrective clicks a mask needs: the simulated annotator of interactive segmentation.

The annotator clicks in the middle of the largest error, positive where pixels are missing, negative
where there are too many, until the mask is good enough (NoC, number of clicks). What a click does
is up to a repair function. `ideal_repair` mends the clicked error as a whole, which bounds every
click-driven tool from below; a model in the loop is another repair. Knows masks only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from calico_model.evaluation.regions import Crop, frame
from calico_model.types import BoolMask

MAX_CLICKS = 20
TARGETS = (80, 85, 90)
"""IoU to reach, in percent."""


@dataclass(frozen=True, eq=False)
class SimulatedClick:
    """One corrective click.

    Attributes:
        row: of the pixel, 0-based.
        column: of the pixel, 0-based.
        is_positive: True adds the clicked place to the mask, False removes it.
        error: (H, W) bool, the connected error that was clicked.
    """

    row: int
    column: int
    is_positive: bool
    error: BoolMask


Repair = Callable[[BoolMask, SimulatedClick], BoolMask]
"""(mask, click) -> the mask after the click, both (H, W) bool."""


def ideal_repair(mask: BoolMask, click: SimulatedClick) -> BoolMask:
    """Mends the clicked error completely and nothing else."""
    return mask ^ click.error


def next_click(mask: BoolMask, truth: BoolMask) -> SimulatedClick | None:
    """Clicks in the middle of the largest 8-connected error; None if there is none.

    Args:
        mask: (H, W) bool.
        truth: the same size.
    """
    best: tuple[int, bool, BoolMask] | None = None
    for is_positive, error in ((True, truth & ~mask), (False, mask & ~truth)):
        count, labels, stats, _ = cv2.connectedComponentsWithStats(error.astype(np.uint8))
        if count < 2:
            continue
        largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
        area = int(stats[largest, cv2.CC_STAT_AREA])
        if best is None or area > best[0]:
            best = area, is_positive, labels == largest
    if best is None:
        return None
    _, is_positive, error = best
    # A border of zeros: the image's edge is as much an end of the error as any other.
    inside = np.pad(error.astype(np.uint8), 1)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = divmod(int(depth.argmax()), error.shape[1])
    return SimulatedClick(row, column, is_positive, error)


def click_curve(
    mask: BoolMask,
    truth: BoolMask,
    *,
    repair: Repair = ideal_repair,
    until: float = max(TARGETS) / 100,
) -> tuple[float, ...]:
    """IoU before the first click and after each, up to 20, ending when `until` is reached.

    Args:
        mask: (H, W) bool to start from.
        truth: the same size.
        repair: what a click does.
        until: IoU in [0, 1].
    """
    curve = [_iou(mask, truth)]
    while curve[-1] < until and len(curve) <= MAX_CLICKS:
        click = next_click(mask, truth)
        if click is None:
            break
        mask = repair(mask, click)
        curve.append(_iou(mask, truth))
    return tuple(curve)


def clicks_to(target: float, curve: Sequence[float]) -> int:
    """Number of clicks until an IoU is reached; 20 if it never is.

    Args:
        target: IoU in [0, 1].
        curve: IoU before the first click and after each.
    """
    reached = [number for number, iou in enumerate(curve[: MAX_CLICKS + 1]) if iou >= target]
    return reached[0] if reached else MAX_CLICKS


def ideal_curve(mask: Crop | None, truth: Crop) -> tuple[float, ...]:
    """`click_curve` with `ideal_repair`, from one look at the errors inside the masks' box.

    Args:
        mask: what was proposed, None for nothing.
        truth: what it should be.
    """
    box = frame([truth] if mask is None else [mask, truth])
    theirs = truth.window(box)
    ours = np.zeros_like(theirs) if mask is None else mask.window(box)
    shared, united = np.count_nonzero(ours & theirs), np.count_nonzero(ours | theirs)
    # An ideal click leaves the other errors as they are, so they go from large to small; of two
    # equal ones the missing one first.
    errors = [(-area, 0) for area in _error_areas(theirs & ~ours)]
    errors += [(-area, 1) for area in _error_areas(ours & ~theirs)]
    curve = [shared / united if united else 1.0]
    for negative_area, is_extra in sorted(errors)[:MAX_CLICKS]:
        if curve[-1] >= max(TARGETS) / 100:
            break
        if is_extra:
            united += negative_area
        else:
            shared -= negative_area
        curve.append(shared / united if united else 1.0)
    return tuple(curve)


def _error_areas(error: BoolMask) -> list[int]:
    """Pixels of every 8-connected error."""
    if not error.any():
        return []
    stats = cv2.connectedComponentsWithStats(error.astype(np.uint8))[2]
    return [int(area) for area in stats[1:, cv2.CC_STAT_AREA]]


def _iou(mask: BoolMask, truth: BoolMask) -> float:
    union = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / union if union else 1.0
