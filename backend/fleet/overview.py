"""What a fleet consists of now, and what is missing."""

from __future__ import annotations

from typing import Any

import msgspec

from backend.fleet.connection import connect_over_ray, join_cluster
from backend.fleet.trainers import running_trainers
from backend.fleet.wire import ReplicaReport
from backend.settings import Settings


class Machine(msgspec.Struct, frozen=True):
    """One machine of the cluster, or one that has left it."""

    address: str
    is_alive: bool


class PoolState(msgspec.Struct, frozen=True):
    """One kind of replicas.

    Attributes:
        name: click or batch.
        state: of its deployment, in the words of Ray Serve.
        running: replicas that answer.
        wanted: replicas there should be now.
    """

    name: str
    state: str
    running: int
    wanted: int


class FleetOverview(msgspec.Struct, frozen=True):
    """A fleet.

    Attributes:
        machines: of the cluster, those that have left it last.
        pools: kinds of replicas.
        replicas: what each click replica says of itself.
        trainers: number of trainers.
        problems: sentences; none if nothing is missing.
    """

    machines: tuple[Machine, ...]
    pools: tuple[PoolState, ...]
    replicas: tuple[ReplicaReport, ...]
    trainers: int
    problems: tuple[str, ...]


def read_overview(settings: Settings) -> FleetOverview:
    """Asks the fleet at `settings.fleet_address`.

    Raises:
        FleetError: the extra `fleet` is not installed.
        Exception: those of Ray, when there is no fleet.
    """
    serve = join_cluster(settings)
    import ray

    machines = _machines(ray.nodes())
    pools = tuple(
        PoolState(name, found.status.value, found.replica_states.get("RUNNING", 0), wanted)
        for application in serve.status().applications.values()
        for name, found in application.deployments.items()
        if (wanted := sum(found.replica_states.values())) >= 0
    )
    replicas = connect_over_ray(settings).reports()
    trainers = sum(1 for _ in running_trainers(settings))
    return FleetOverview(
        machines, pools, replicas, trainers, tuple(find_problems(machines, pools, replicas))
    )


def _machines(nodes: list[dict[str, Any]]) -> tuple[Machine, ...]:
    found = [Machine(node["NodeManagerAddress"], bool(node["Alive"])) for node in nodes]
    alive = {machine.address for machine in found if machine.is_alive}
    # One that was restarted is listed as dead, too.
    gone = {machine.address for machine in found} - alive
    return (
        *(machine for machine in found if machine.is_alive),
        *(Machine(address, is_alive=False) for address in sorted(gone)),
    )


def find_problems(
    machines: tuple[Machine, ...],
    pools: tuple[PoolState, ...],
    replicas: tuple[ReplicaReport, ...],
) -> list[str]:
    """Returns a sentence for everything that is not as it should be."""
    problems = [f"machine {one.address} is missing" for one in machines if not one.is_alive]
    for pool in pools:
        if pool.running < pool.wanted:
            problems.append(f"{pool.name}: {pool.running} of {pool.wanted} replicas run")
        elif pool.state not in ("HEALTHY", "UPSCALING", "DOWNSCALING"):
            problems.append(f"{pool.name}: {pool.state.lower()}")
    click = next((pool for pool in pools if pool.name == "click"), None)
    if click is None or click.running < 2:
        problems.append("fewer than 2 click replicas run: if one dies, nobody answers")
    for what, values in (
        ("releases", {one.release for one in replicas}),
        ("weights", {one.weights for one in replicas}),
    ):
        if len(values) > 1:
            problems.append(f"replicas have different {what}: {', '.join(sorted(values))}")
    return problems
