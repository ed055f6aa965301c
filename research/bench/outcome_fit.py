"""What fits of odds to the outcomes of regions share, for `calico bench odds`."""

from __future__ import annotations

from collections.abc import Sequence, Sized

import numpy as np
from numpy.typing import NDArray

from calico_model.evaluation.calibration import calibrate
from calico_model.evaluation.matching import iou_matrix
from calico_model.evaluation.metrics import IOU_THRESHOLD
from calico_model.types import BoolMask, LabeledGroup, RegionKind
from calico_model.vocabulary import normalise


def judged_right(
    labeled: LabeledGroup, image: int, label: str, mask: BoolMask, *, is_object: bool
) -> bool:
    """Returns whether a true region of an image has a name, and an IoU of at least 0.5 with a mask.

    Args:
        labeled: a group with its truth.
        image: 0-based position in the group.
        label: the name.
        mask: (H, W) bool.
        is_object: whether objects or parts are asked about.
    """
    truths = [
        part.mask
        for part in labeled.parts
        if part.image_index == image
        and (part.kind is RegionKind.COMMON_OBJECT) == is_object
        and normalise(part.label) == normalise(label)
    ]
    return bool(truths) and bool(iou_matrix([mask], truths).max() >= IOU_THRESHOLD)


def set_weights(by_set: Sequence[Sized]) -> NDArray[np.float64]:
    """Returns the (N,) weights of all rows, set by set, so that every set counts the same.

    Args:
        by_set: the rows of each set; sets without rows do not count.
    """
    rows = sum(len(found) for found in by_set)
    filled = sum(bool(len(found)) for found in by_set)
    return np.array([rows / filled / len(found) for found in by_set for _ in range(len(found))])


def outcome_figures(
    log_odds: NDArray[np.float64], right: NDArray[np.bool_], least: float = 0.0
) -> dict[str, float]:
    """Returns how well odds say what is right: log_loss of all rows, ece in points of some.

    Args:
        log_odds: (N,).
        right: (N,).
        least: chance from which a row counts for the ece.
    """
    chance = 1 / (1 + np.exp(-log_odds))
    shown = chance >= least
    ece = calibrate(chance[shown], right[shown])["ECE"] if shown.any() else 0.0
    loss = np.logaddexp(0.0, np.where(right, -log_odds, log_odds)).mean()
    return {"log_loss": round(float(loss), 4), "ece": round(100 * ece, 1)}
