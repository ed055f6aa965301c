"""What is missing in a fleet is said in sentences."""

from __future__ import annotations

import pytest

from backend.fleet.overview import Machine, PoolState, find_problems
from backend.fleet.wire import ReplicaReport

MACHINES = (Machine("10.0.0.1", True), Machine("10.0.0.2", True))
POOLS = (PoolState("click", "HEALTHY", 2, 2), PoolState("batch", "HEALTHY", 0, 0))
REPLICAS = tuple(ReplicaReport("0.2", "w1", 0, 0, name) for name in "ab")


def problems(machines=MACHINES, pools=POOLS, replicas=REPLICAS):
    return find_problems(machines, pools, replicas)


def test_a_whole_fleet_has_no_problem():
    assert problems() == []


def test_a_machine_that_left_is_named():
    assert problems((MACHINES[0], Machine("10.0.0.2", False))) == ["machine 10.0.0.2 is missing"]


def test_one_click_replica_is_too_few():
    found = problems(pools=(PoolState("click", "UNHEALTHY", 1, 2), POOLS[1]))
    assert found[0] == "click: 1 of 2 replicas run"
    assert "if one dies" in found[1]


def test_a_fleet_without_replicas_is_no_fleet():
    assert any("fewer than 2 click replicas" in problem for problem in problems(pools=()))


def test_a_deployment_that_fails_is_named():
    pools = (POOLS[0], PoolState("batch", "DEPLOY_FAILED", 0, 0))
    assert problems(pools=pools) == ["batch: deploy_failed"]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (ReplicaReport("0.3", "w1", 0, 0, "b"), "replicas have different releases: 0.2, 0.3"),
        (ReplicaReport("0.2", "w2", 0, 0, "b"), "replicas have different weights: w1, w2"),
    ],
)
def test_an_update_that_is_not_over_is_seen(other, said):
    assert problems(replicas=(REPLICAS[0], other)) == [said]
