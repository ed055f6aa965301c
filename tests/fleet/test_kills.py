"""F13: whatever is killed, every request is answered, and rightly."""

from __future__ import annotations

import pytest

from research.bench.ray_fleet import running_fleet
from research.bench.ray_kills import CLICKS, TASKS, Victim, kill_under_load
from research.bench.ray_load import draw_bodies, learn

pytestmark = pytest.mark.fleet


@pytest.mark.parametrize("victim", [Victim.REPLICA, Victim.WEB, Victim.CONTROLLER])
def test_a_kill_under_load_costs_no_answer(fleet, request, victim):
    show(killed(fleet, request, victim))


def test_a_killed_machine_costs_no_answer(tmp_path, request):
    with running_fleet(tmp_path, has_nodes=True) as fleet:
        show(killed(fleet, request, Victim.NODE))


def killed(fleet, request, victim):
    kills, clients = (request.config.getoption(name) for name in ("--kills", "--clients"))
    bodies = draw_bodies(fleet.balancer, TASKS, CLICKS)
    expected = learn(fleet.balancer, bodies)
    return kill_under_load(fleet, bodies, expected, victim, kills=kills, clients=clients)


def show(figures):
    print(
        f"\n{figures.victim}: {len(figures.back_s)} kills, {figures.asked} requests, "
        f"{len(figures.failures)} failed, worst {figures.worst_s:.1f} s, "
        f"whole again after {max(figures.back_s):.1f} s"
    )
    assert not figures.failures, figures.failures[:5]
