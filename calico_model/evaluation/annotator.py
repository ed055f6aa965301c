"""The simulated annotator: corrective clicks, and the effort that a prediction saves.

The annotator clicks in the middle of the largest error, positive where pixels are missing, negative
where there are too many, until the mask is good enough (NoC, number of clicks). A repair function
says what a click does. `ideal_repair` mends the clicked error as a whole, so it bounds every
click-driven tool from below; a model in the loop is another repair. `measure_effort` counts what a
person has to do to a prediction until it is the truth: keep, edit, rename, delete, add.
Knows masks and matched regions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from calico_model.evaluation.metrics import IOU_THRESHOLD, Tally
from calico_model.evaluation.regions import Crop, CroppedRegion, frame
from calico_model.evaluation.units import Unit
from calico_model.masks import mask_iou
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
    most: int = MAX_CLICKS,
) -> tuple[float, ...]:
    """IoU before the first click and after each, ending when `until` is reached.

    Args:
        mask: (H, W) bool to start from.
        truth: the same size.
        repair: what a click does.
        until: IoU in [0, 1].
        most: number of clicks after which the annotator gives up.
    """
    curve = [mask_iou(mask, truth)]
    while curve[-1] < until and len(curve) <= most:
        click = next_click(mask, truth)
        if click is None:
            break
        mask = repair(mask, click)
        curve.append(mask_iou(mask, truth))
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


KEPT_IOU = 0.9
COUNTS = ("added", "deleted", "relabeled", "redrawn")
TALLIES = ("accept_rate", "label_clicks_saved", *COUNTS)
CLICKS = tuple(f"NoC@{target}" for target in TARGETS)


@dataclass(frozen=True)
class CorrectionEffort:
    """The correction of one image of one subtask.

    Attributes:
        tallies: name -> (part, whole); `COUNTS` have a whole of 0, the group is their whole.
        edit_ratios: per matched proposal, pixels changed over pixels of the final region.
        clicks: per final region, how many ideal clicks reach each target, missing regions from
            nothing.
        outcomes: per proposal, its score and whether it was right (IoU >= 0.5 and same label).
    """

    tallies: dict[str, Tally]
    edit_ratios: tuple[float, ...]
    clicks: dict[str, tuple[int, ...]]
    outcomes: tuple[tuple[float, bool], ...]


def measure_effort(
    unit: Unit, predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion]
) -> CorrectionEffort:
    """Compares proposals with the final regions.

    Args:
        unit: the strict unit of the image.
        predicted: the merged regions behind its rows.
        truth: the regions behind its columns.
    """
    pairs = unit.matched
    renamed = [(p, t) for p, t in pairs if not unit.same_label[p, t]]
    redrawn = [(p, t) for p, t in pairs if unit.iou[p, t] < KEPT_IOU]
    kept = len(set(pairs) - set(renamed) - set(redrawn))
    proposals = {t: predicted[p].mask for p, t in pairs}
    curves = [ideal_curve(proposals.get(t), region.mask) for t, region in enumerate(truth)]
    changed = [
        (unit.predicted_area[p] + unit.truth_area[t] - 2 * unit.intersection[p, t])
        / unit.truth_area[t]
        for p, t in pairs
    ]
    right = {p for p, t in pairs if unit.iou[p, t] >= IOU_THRESHOLD and unit.same_label[p, t]}
    return CorrectionEffort(
        tallies={
            "accept_rate": (kept, len(predicted)),
            "label_clicks_saved": (len(pairs) - len(renamed), len(truth)),
            "added": (len(truth) - len(pairs), 0.0),
            "deleted": (len(predicted) - len(pairs), 0.0),
            "relabeled": (len(renamed), 0.0),
            "redrawn": (len(redrawn), 0.0),
        },
        edit_ratios=tuple(float(ratio) for ratio in changed),
        clicks={
            f"NoC@{target}": tuple(clicks_to(target / 100, curve) for curve in curves)
            for target in TARGETS
        },
        outcomes=tuple((float(score), p in right) for p, score in enumerate(unit.scores)),
    )
