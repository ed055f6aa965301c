"""Regime: a server and a trainer of their own, a model that learns by counting, SQLite; a thousand
kill -9, half of them at any moment and half at named places, in four campaigns of 250.

Run: pytest -m bench tests/bench/bench_kills.py -s
"""

from __future__ import annotations

import json

import pytest

from tests.integration.kill_campaign import run_campaign

pytestmark = pytest.mark.bench


@pytest.mark.parametrize("seed", [11, 12, 13, 14])
def test_a_thousand_kills(tmp_path, seed):
    figures = run_campaign(tmp_path, kills=250, seed=seed, pause_s=1.0)
    print(json.dumps({"seed": seed} | figures))
    assert figures["lost"] == figures["doubled"] == figures["wrong_answers"] == 0
