"""How well two outlines agree: boundary F-score and mean distance.

The F-score follows the DAVIS benchmark (Perazzi et al. 2016, section 4.2): a boundary pixel counts
as found when the other boundary is within 0.8 % of the image diagonal. Knows masks only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from calico_model.errors import InvalidMaskError
from calico_model.masks import window_of
from calico_model.types import BoolMask

TOLERANCE = 0.008  # of the image diagonal

_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


@dataclass(frozen=True)
class BoundaryMatch:
    """Agreement of two outlines.

    Attributes:
        f_score: harmonic mean of the shares of either boundary that is near the other, in [0, 1].
        distance_px: mean distance from either boundary to the other, in pixels; infinite when only
            one of the masks is empty.
    """

    f_score: float
    distance_px: float


def compare_boundaries(predicted: BoolMask, truth: BoolMask) -> BoundaryMatch:
    """Compares the outlines of two masks.

    Args:
        predicted: (H, W) bool.
        truth: (H, W) bool.

    Raises:
        InvalidMaskError: the masks differ in size.
    """
    if predicted.shape != truth.shape:
        raise InvalidMaskError(f"predicted: expected the size {truth.shape}, got {predicted.shape}")
    window = window_of(predicted | truth)  # all that has to be looked at
    if window is None:
        return BoundaryMatch(1.0, 0.0)
    if not (predicted.any() and truth.any()):
        return BoundaryMatch(0.0, math.inf)
    tolerance = math.ceil(TOLERANCE * math.hypot(*truth.shape))
    ours, theirs = _boundary(predicted[window]), _boundary(truth[window])
    to_theirs, to_ours = _distances(theirs)[ours], _distances(ours)[theirs]
    precision = float((to_theirs <= tolerance).mean())
    recall = float((to_ours <= tolerance).mean())
    f_score = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    distance = (float(to_theirs.mean()) + float(to_ours.mean())) / 2
    return BoundaryMatch(f_score, distance)


def _boundary(mask: BoolMask) -> BoolMask:
    """Pixels of the mask with a neighbour outside; beyond the window everything is outside."""
    pixels = mask.astype(np.uint8)
    inner = cv2.erode(pixels, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    boundary: BoolMask = (pixels != inner).astype(np.bool_)
    return boundary


def _distances(boundary: BoolMask) -> NDArray[np.float32]:
    """Euclidean distance in pixels from each place of the window to the boundary."""
    away = (~boundary).astype(np.uint8)
    distances = cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distances, dtype=np.float32)
