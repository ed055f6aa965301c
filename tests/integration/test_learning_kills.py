"""kill -9 of server and trainer while annotators work: nothing acknowledged is lost or doubled,
and no answer is half, corrupt or of another version than it says.

A thousand kills, in four campaigns: tests/bench/bench_kills.py
"""

from __future__ import annotations

import pytest

from tests.integration.kill_campaign import KINDS, plan_kills, run_campaign
from tests.integration.killing_points import POINTS


def test_a_plan_strikes_at_every_place_and_at_any_moment():
    kills = plan_kills(120, seed=1)
    places = {(name, point) for name, points in POINTS.items() for point in points}
    assert {(k.victims[0], k.point) for k in kills if k.point} == places
    assert {k.kind for k in kills} == set(KINDS)


def test_a_few_kills_lose_double_and_confuse_nothing(tmp_path):
    figures = run_campaign(tmp_path, kills=12, seed=1, pause_s=0.05)
    assert figures["acknowledged"] >= 10
    assert figures["answers"] >= 10


@pytest.mark.slow
def test_300_kills_lose_double_and_confuse_nothing(tmp_path):
    figures = run_campaign(tmp_path, kills=300, seed=2, pause_s=1.0)
    assert figures["acknowledged"] >= 300
    assert sum(figures["places_not_reached"].values()) < 30
