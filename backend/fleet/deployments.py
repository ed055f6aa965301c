"""The fleet's deployments on Ray Serve: what runs, how many, and where."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from backend.errors import FleetError
from backend.fleet.connection import BATCH, CLICK, join_cluster
from backend.fleet.replica import QUESTIONS_AT_ONCE, ServedReplica
from backend.settings import Settings, as_variables, load_settings

_log = logging.getLogger(__name__)
_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
_DRAIN_S = 60.0
_HEALTH_S, _HEALTH_TIMEOUT_S = 2.0, 10.0
_ATTEMPTS = 3
_STEADY_S = 30.0  # a pool shrinks when it was idle so long
_NOT_OF_REPLICAS = ("CALICO_FLEET_ADDRESS", "CALICO_HOST", "CALICO_PORT", "CALICO_TRAINER")


@dataclass(frozen=True)
class FleetSize:
    """How many replicas a fleet has, and what each takes.

    Values out of range raise FleetError, which names the option of `calico fleet up`.

    Attributes:
        click: replicas for what somebody waits for, at least 2: one may die.
        most_click: up to so many under load.
        batch: at least so many replicas for other tasks; 0 starts one when there are any.
        most_batch: up to so many under load.
        cpus: processor cores that one replica counts for.
        gpus: graphics cards that one replica counts for; two may share one with 0.5.
    """

    click: int = 2
    most_click: int = 2
    batch: int = 0
    most_batch: int = 1
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        for name, least, why in (
            ("click", 2, "so that one may die"),
            ("most_click", self.click, "the number that always runs"),
            ("batch", 0, "a number of replicas"),
            ("most_batch", max(self.batch, 1), "the number that always runs, or 1"),
        ):
            if (given := getattr(self, name)) < least:
                option = f"--{name.replace('_', '-')}"
                raise FleetError(f"{option}: expected at least {least}, {why}; got {given}")


def deploy(settings: Settings, size: FleetSize, *, release: str) -> None:
    """Starts the replicas, or replaces those of another release one after another.

    Returns when all are ready. While replicas are replaced, others answer.

    Args:
        settings: of the replicas; `settings.fleet_address` is where to start them.
        size: how many.
        release: names what is deployed; another name replaces the replicas.

    Raises:
        FleetError: the extra `fleet` is not installed, or replicas do not start.
        Exception: those of Ray.
    """
    serve = join_cluster(settings)
    serve.start(proxy_location="Disabled")
    variables = replica_variables(settings)
    for name, least, most in (
        (CLICK, size.click, size.most_click),
        (BATCH, size.batch, size.most_batch),
    ):
        deployment = _deployment(serve, name, least, most, size)
        _run(serve, deployment.bind(_variables_of(name, variables), release), name)
        about = {"event": "fleet_deployed", "pool": name, "release": release}
        _log.info("%s replicas are ready", name, extra=about)


def _run(serve: Any, application: Any, name: str) -> None:
    """Waits until all replicas are ready; a replica that dies meanwhile is no reason to give up."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            serve.run(application, name=name, route_prefix=None)
        except RuntimeError as error:  # Serve gives up as soon as one replica dies
            reason = str(error)
            about = {"event": "deployment_failed", "pool": name, "attempt": attempt}
            _log.warning("%s replicas: %s", name, reason, extra=about)
        else:
            return
    raise FleetError(f"{name} replicas do not start: {reason}; their logs have the details")


def serve_application(args: dict[str, Any]) -> Any:
    """Returns one pool as an application of Ray Serve, as a RayService of Kubernetes names it.

    The settings of the replicas are those of the process that calls this, on the cluster.

    Args:
        args: `pool`, which is `CLICK` or `BATCH`; `release`, another one replaces the replicas; the
            fields of `FleetSize`, as numbers or text.

    Raises:
        FleetError: a pool or a field that there is not, or not a number.
    """
    from ray import serve

    sizes = dict(args)
    name, release = str(sizes.pop("pool", "")), str(sizes.pop("release", ""))
    try:
        numbers: dict[str, Any] = {
            key: (float if key in ("cpus", "gpus") else int)(value) for key, value in sizes.items()
        }
        size = FleetSize(**numbers)
    except (TypeError, ValueError) as error:
        raise FleetError(f"args: {error}") from error
    bounds = {CLICK: (size.click, size.most_click), BATCH: (size.batch, size.most_batch)}
    if name not in bounds:
        raise FleetError(f"args.pool: expected one of {', '.join(bounds)}; got {name!r}")
    deployment = _deployment(serve, name, *bounds[name], size)
    variables = _variables_of(name, replica_variables(load_settings()))
    return deployment.bind(variables, release)


def replica_variables(settings: Settings) -> dict[str, str]:
    """Returns the settings of a replica as environment variables."""
    return {
        name: value
        for name, value in as_variables(settings).items()
        if name not in _NOT_OF_REPLICAS
    }


def _variables_of(name: str, variables: dict[str, str]) -> dict[str, str]:
    """Settings of one kind of replicas: a click must not wait for several groups at once."""
    left_out = ("CALICO_GROUPS_AT_ONCE",) if name == CLICK else ()
    return {key: value for key, value in variables.items() if key not in left_out}


def _deployment(serve: Any, name: str, least: int, most: int, size: FleetSize) -> Any:
    from ray.serve.config import AutoscalingConfig, RequestRouterConfig

    return serve.deployment(
        ServedReplica,
        name=name,
        autoscaling_config=AutoscalingConfig(
            min_replicas=least,
            max_replicas=most,
            target_ongoing_requests=2,
            upscale_delay_s=3.0,
            downscale_delay_s=_STEADY_S,
        ),
        max_ongoing_requests=QUESTIONS_AT_ONCE,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=_DRAIN_S,
        health_check_period_s=_HEALTH_S,
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
        ray_actor_options={"num_cpus": size.cpus, "num_gpus": size.gpus},
        request_router_config=RequestRouterConfig(request_router_class=_ROUTER),
    )
