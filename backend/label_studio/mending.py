"""Pictures that lack their very end: every viewer shows them, a strict decoder does not.

The end is made up twice, differently. What both readings agree on was in the file; so a picture
that lost more than a trace is still refused.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from calico_model.errors import InvalidImageError
from calico_model.types import RgbImage

# Without 0xff, which begins a marker of JPEG.
_FILLS = tuple(
    np.random.default_rng(seed).integers(0, 255, 4096, dtype=np.uint8).tobytes() for seed in (1, 2)
)
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_MADE_UP_SHARE = 0.02  # of the pixels


def read_without_end(data: bytes, read: Callable[[bytes], RgbImage]) -> RgbImage | None:
    """Returns the pixels of a picture whose end is missing, None if more than that is.

    Args:
        data: of a picture that `read` refuses.
        read: decodes a picture; raises InvalidImageError.
    """
    is_jpeg = data.startswith(_JPEG_START)
    end = _JPEG_END if is_jpeg else b""
    body = data.rstrip(b"\xff") if is_jpeg else data  # half of a marker
    try:
        first, second = (read(body + fill + end) for fill in _FILLS)
    except InvalidImageError:
        return None
    if first.shape != second.shape:
        return None
    made_up = np.count_nonzero((first != second).any(axis=2))
    return first if made_up <= _MADE_UP_SHARE * first.shape[0] * first.shape[1] else None
