"""F15: a fleet answers what one server does, some milliseconds later."""

from __future__ import annotations

import pytest

from research.bench.ray_kills import CLICKS, TASKS, compare_with_one
from research.bench.ray_load import draw_bodies

pytestmark = pytest.mark.fleet


def test_answers_are_those_of_one_server_and_take_little_longer(fleet, request):
    pairs = request.config.getoption("--pairs")
    bodies = draw_bodies(fleet.balancer, TASKS, CLICKS)
    compared = compare_with_one(fleet, bodies, pairs)
    print(
        f"\nwarm click: {compared.direct_ms:.0f} ms by one server, through the fleet "
        f"{compared.added_ms:+.1f} ms (p50 of {pairs} pairs), {compared.equal:.0%} equal"
    )
    assert compared.equal == 1
    assert compared.added_ms < 1000  # a machine that does other things measures no milliseconds
