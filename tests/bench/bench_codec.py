"""How our brush codec scales with what a mask holds: `python tests/bench/bench_codec.py`.

Regime: one process, warm caches, best of seven calls, 2,048 px; no SDK needed (`calico bench codec`
compares with it). Hostile streams are measured too: what the longest decode of one request costs.
The last line is one JSON document.
"""

from __future__ import annotations

import json
import time

import numpy as np

from backend.label_studio.brush import decode_mask, encode_mask
from research.bench.codec import draw_part, draw_ragged

_SIDE, _CALLS = 2048, 7


def _best_ms(call) -> float:
    best = float("inf")
    for _ in range(_CALLS):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return round(best * 1e3, 2)


def main() -> None:
    rng = np.random.default_rng(0)
    masks = {
        "empty": np.zeros((_SIDE, _SIDE), dtype=np.bool_),
        "part": draw_part(rng, _SIDE),
        "ragged": draw_ragged(rng, _SIDE),
        "noise": rng.random((_SIDE, _SIDE)) < 0.5,
    }
    report = {}
    print(f"{'mask':>8} {'bytes':>9} {'encode ms':>10} {'decode ms':>10}")
    for name, mask in masks.items():
        rle = encode_mask(mask)
        encode_ms = _best_ms(lambda mask=mask: encode_mask(mask))
        decode_ms = _best_ms(lambda rle=rle: decode_mask(rle, size_hw=(_SIDE, _SIDE)))
        print(f"{name:>8} {len(rle):>9} {encode_ms:>10} {decode_ms:>10}")
        report[name] = {"bytes": len(rle), "encode_ms": encode_ms, "decode_ms": decode_ms}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
