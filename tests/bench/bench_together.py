"""How much of the time eight groups take that the model is asked about at once.

pytest -s -m bench tests/bench/bench_together.py
"""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from calico_model.data.synthetic import Stream, draw_group, group_rng, labeled_group
from calico_model.predictor import load_predictor

pytestmark = pytest.mark.bench
GROUPS, ROUNDS = 8, 5


def test_groups_together_take_less_time_than_one_by_one():
    predictor = load_predictor(threads=1)
    groups = [
        labeled_group(
            draw_group(group_rng(Stream.EVALUATION, 5, number), group_size=2, size_px=256)
        ).group
        for number in range(GROUPS)
    ]
    for group in groups:
        predictor.encode(group)
    alone_s, together_s = [], []
    for _ in range(ROUNDS):
        alone_s.append(seconds(lambda: [predictor.predict(group) for group in groups]))
        together_s.append(seconds(lambda: predictor.predict_groups(groups)))
    ratio = float(np.median(np.divide(together_s, alone_s)))
    figures = {"groups": GROUPS, "alone_s": np.median(alone_s), "together_s": np.median(together_s)}
    print(json.dumps(figures | {"ratio": round(ratio, 3)}))
    assert ratio < 0.9


def seconds(ask):
    """Processor time."""
    began = time.process_time()
    ask()
    return time.process_time() - began
