"""Measures of whole masks: how much two of them overlap, and the rectangle around one.

Knows numpy arrays only. `evaluation/matching.py` compares many masks at once, cropped;
`backend/rle.py` compares masks by their runs.
"""

from __future__ import annotations

import numpy as np

from calico_model.types import BoolMask

Extent = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in pixels of the image, half-open."""
Window = tuple[slice, slice]
"""Rows and columns of an image; `array[window]` is the part of an (H, W, ...) array inside."""


def mask_iou(mask: BoolMask, other: BoolMask) -> float:
    """Returns the intersection over union of two masks.

    Args:
        mask: (H, W) bool.
        other: (H, W) bool.

    Returns:
        IoU in [0, 1]; 1 for two empty masks, 0 for masks of different sizes.
    """
    if mask.shape != other.shape:
        return 0.0
    shared = int(np.count_nonzero(mask & other))
    union = int(np.count_nonzero(mask)) + int(np.count_nonzero(other)) - shared
    return shared / union if union else 1.0


def window_of(mask: BoolMask) -> Window | None:
    """Returns the smallest window with all True pixels of an (H, W) mask, None if it is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return None
    above = slice(int(rows[0]), int(rows[-1]) + 1)
    columns = np.flatnonzero(mask[above].any(axis=0))
    return above, slice(int(columns[0]), int(columns[-1]) + 1)


def extent_of(mask: BoolMask) -> Extent | None:
    """Returns the rectangle around the True pixels of an (H, W) mask, None if it is empty."""
    window = window_of(mask)
    if window is None:
        return None
    rows, columns = window
    return float(columns.start), float(rows.start), float(columns.stop), float(rows.stop)
