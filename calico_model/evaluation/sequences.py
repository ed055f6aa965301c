"""Masks and boxes over time: how well a thing is followed through the images of a sequence.

Region similarity J and boundary accuracy F after DAVIS (Perazzi et al. 2016); tIoU and vIoU after
spatio-temporal grounding (Zhang et al. 2020, VidSTG). Knows masks, boxes and frame numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from calico_model.evaluation.boundary import compare_boundaries
from calico_model.evaluation.matching import iou_matrix
from calico_model.types import BoolMask

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""


def region_similarity(predicted: Sequence[BoolMask], truth: Sequence[BoolMask]) -> float:
    """J: mean IoU in [0, 1] over the frames of one object.

    Args:
        predicted: one (H, W) bool mask per frame; empty where nothing is claimed.
        truth: as many, of the same sizes.
    """
    overlaps = [iou_matrix([p], [t])[0, 0] for p, t in zip(predicted, truth, strict=True)]
    return float(np.mean(overlaps))


def boundary_accuracy(predicted: Sequence[BoolMask], truth: Sequence[BoolMask]) -> float:
    """F: mean boundary F-score in [0, 1] over the frames of one object; arguments as for J."""
    scores = [compare_boundaries(p, t).f_score for p, t in zip(predicted, truth, strict=True)]
    return float(np.mean(scores))


def decay(overlaps: Sequence[float]) -> tuple[float, ...]:
    """J at frame +k minus J at frame +1, for k = 1, 2, ...

    Args:
        overlaps: IoU at frame +1, +2, ... after the prompted one.
    """
    return tuple(value - overlaps[0] for value in overlaps)


def temporal_iou(predicted: frozenset[int], truth: frozenset[int]) -> float:
    """tIoU of two sets of frames; nothing against nothing is 1."""
    union = predicted | truth
    return len(predicted & truth) / len(union) if union else 1.0


def spatio_temporal_iou(predicted: Mapping[int, Box], truth: Mapping[int, Box]) -> float:
    """vIoU: box IoU summed over shared frames, over the frames of either.

    Args:
        predicted: frame -> box.
        truth: frame -> box.
    """
    union = predicted.keys() | truth.keys()
    shared = predicted.keys() & truth.keys()
    total = sum(_box_iou(predicted[frame], truth[frame]) for frame in shared)
    return total / len(union) if union else 1.0


def _box_iou(ours: Box, theirs: Box) -> float:
    width = min(ours[2], theirs[2]) - max(ours[0], theirs[0])
    height = min(ours[3], theirs[3]) - max(ours[1], theirs[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = _area(ours) + _area(theirs) - shared
    return shared / union if union else 1.0


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
