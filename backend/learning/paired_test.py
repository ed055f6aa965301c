"""Whether two versions differ on the same regions by more than chance: two tests at 10 %.

Pure: values in, values out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Regions = tuple[tuple[tuple[str, float], ...], ...]
"""Per group its true regions: (name, largest IoU in [0, 1] of a prediction with that name).

The order depends on the truth alone, so that two versions are compared region by region.
"""

_FOUND_IOU = 0.5
_LEVEL = 0.1  # significance level: a version that only chance moved fails one time in ten
_Z = 1.282  # quantile of the normal distribution at 1 - _LEVEL


def has_fallen(before: Regions, after: Regions) -> bool:
    """Whether the quality of regions falls by more than chance: a one-sided paired test at 10 %.

    The quality of a region is the mean of its IoU and of whether it is found. Regions of one group
    are about equally difficult, so the standard error is computed between regions and between
    groups, and the larger one counts.
    """
    groups = [
        np.array([_region_quality(old) - _region_quality(new) for old, new in pairs])
        for pairs in _pairs(before, after)
    ]
    groups = [falls for falls in groups if len(falls)]
    if not groups:
        return False
    falls = np.concatenate(groups)
    mean = float(falls.mean())
    error = max(_standard_error(falls), _standard_error_of_groups(groups, mean))
    return mean > 0 and mean > _Z * error


def has_lost(before: Regions, after: Regions, labels: frozenset[str]) -> bool:
    """Whether more regions of these labels are lost than newly found: a sign test at 10 %."""
    lost = found = 0
    for pairs in _pairs(before, after):
        for old, new in pairs:
            if old[0] in labels:
                lost += old[1] >= _FOUND_IOU > new[1]
                found += new[1] >= _FOUND_IOU > old[1]
    changed = lost + found
    at_least = sum(math.comb(changed, k) for k in range(lost, changed + 1))
    return lost > found and at_least <= _LEVEL * 2**changed


def _pairs(
    before: Regions, after: Regions
) -> Iterator[list[tuple[tuple[str, float], tuple[str, float]]]]:
    """Per group the pairs of the same region, before and after."""
    for old_group, new_group in zip(before, after, strict=True):
        yield list(zip(old_group, new_group, strict=True))


def _region_quality(region: tuple[str, float]) -> float:
    return (region[1] + (region[1] >= _FOUND_IOU)) / 2


def _standard_error(falls: NDArray[np.float64]) -> float:
    """Standard error of the mean over single regions."""
    return float(falls.std(ddof=1)) / math.sqrt(len(falls)) if len(falls) > 1 else math.inf


def _standard_error_of_groups(groups: list[NDArray[np.float64]], mean: float) -> float:
    """Standard error where regions of a group move together (Liang & Zeger, 1986)."""
    count = len(groups)
    if count < 2:
        return 0.0
    sums = np.array([float((falls - mean).sum()) for falls in groups])
    regions = sum(len(falls) for falls in groups)
    return math.sqrt(count / (count - 1) * float((sums**2).sum())) / regions
