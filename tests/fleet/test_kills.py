"""F13: whatever is killed, every request is answered, and rightly."""

from __future__ import annotations

import pytest

from tests.fleet.load import draw_bodies, learn, under_load
from tests.fleet.running_fleet import kill

pytestmark = pytest.mark.fleet

VICTIMS = {
    "replica": lambda fleet: fleet.replicas()[:1],
    "web server": lambda fleet: fleet.web_workers()[:1],
    "controller": lambda fleet: fleet.controller(),
}


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_kill_under_load_costs_no_answer(fleet, request, victim):
    kills, clients = (request.config.getoption(name) for name in ("--kills", "--clients"))
    bodies = draw_bodies(fleet.balancer, tasks=4, clicks=3)
    expected = learn(fleet.balancer, bodies)
    back_s = []
    with under_load(fleet.balancer, bodies, expected, clients) as load:
        for _ in range(kills):
            asked = load.asked
            fleet.wait(lambda asked=asked: load.asked >= asked + 2 * clients, "requests")
            kill(VICTIMS[victim](fleet))
            back_s.append(fleet.wait(fleet.is_whole, f"the {victim} is back"))
    print(
        f"\n{victim}: {kills} kills, {load.asked} requests, {len(load.failures)} failed, "
        f"worst {load.worst_s:.1f} s, whole again after {max(back_s):.1f} s"
    )
    assert not load.failures, load.failures[:5]
