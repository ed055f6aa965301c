"""How fast one core draws pictures: `python tests/bench/bench_synthetic.py`.

Regime: one process, one thread, warm caches, pairs of the seen split without writing files; CPU
time of this process, so that a busy machine does not count. Best of three rounds per size.
The last line is one JSON document.
"""

from __future__ import annotations

import json
import time

import cv2

from calico_model.data.synthetic import Stream, draw_group, group_rng

_GROUPS, _ROUNDS = 60, 3


def _images_per_s(size_px: int) -> float:
    best = 0.0
    for round_index in range(_ROUNDS):
        start = time.process_time()
        for index in range(_GROUPS):
            draw_group(group_rng(Stream.EVALUATION, round_index, index), size_px=size_px)
        best = max(best, 2 * _GROUPS / (time.process_time() - start))
    return best


def main() -> None:
    cv2.setNumThreads(1)
    _images_per_s(64)
    rates = {str(size_px): round(_images_per_s(size_px), 1) for size_px in (128, 256, 512)}
    print(f"{'side px':>8} {'images/s per core':>18}")
    for size_px, rate in rates.items():
        print(f"{size_px:>8} {rate:>18}")
    print(json.dumps({"images_per_s_per_core": rates}))


if __name__ == "__main__":
    main()
