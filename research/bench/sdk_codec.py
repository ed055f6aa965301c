"""Script that runs label_studio_sdk's brush codec over a folder of masks, in the SDK's python.

It imports nothing of this product: the SDK needs another version of numpy and so has another
environment. Reads masks.npz (uint8 arrays of 0 and 255), writes sdk.npz (bytes, decoded alpha, best
seconds).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from label_studio_sdk.converter.brush import (  # type: ignore[import-not-found,unused-ignore]
    decode_rle,
    mask2rle,
)

_T = TypeVar("_T")


def best_of(call: Callable[[], _T], repeats: int) -> tuple[float, _T]:
    """Shortest time in seconds of `repeats` calls, and the value of the last call."""
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        value = call()
        best = min(best, time.perf_counter() - began)
    return best, value


def main(folder: Path, repeats: int) -> None:
    """Encodes and decodes every mask of the folder."""
    answers: dict[str, Any] = {}
    with np.load(folder / "masks.npz") as masks:
        for name in masks.files:
            mask = masks[name]
            encode_s, rle = best_of(partial(mask2rle, mask), repeats)
            decode_s, values = best_of(partial(decode_rle, rle), repeats)
            alpha = values.reshape(*mask.shape, 4)[:, :, 3]
            answers[f"{name}.rle"] = np.array(rle, dtype=np.uint8)
            answers[f"{name}.alpha"] = np.packbits(alpha >= 128)
            answers[f"{name}.seconds"] = np.array([encode_s, decode_s])
    np.savez(folder / "sdk.npz", **answers)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
