"""The connection of a web server to the model replicas of its fleet, over Ray.

Connecting happens in the thread in which other servers load their weights. Ray is imported here
alone on the side of the web server, and only when it connects.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from backend.errors import FleetError
from backend.fleet.remote import RemoteFleet, RemoteTaskPredictor
from backend.fleet.replica_pool import ReplicaHandle, ReplicaPool
from backend.fleet.wire import ReplicaReport, decode_report
from backend.prediction_side import PredictionSide, build_registry
from backend.serving.metrics import Metrics
from backend.serving.model_host import ModelHost
from backend.settings import Settings, export_variables
from backend.storage.store import Store

_log = logging.getLogger(__name__)
CLICK, BATCH = "click", "batch"
"""Names of the two kinds of replicas, and of their applications."""
REPORT = "report"
NAMESPACE = "calico"
_BATCH_TRY = 3  # times the time of a try for a click
_WATCH_S = 5.0
_RETRY_S = 2.0
_REPORT_S = 10.0


@dataclass(frozen=True)
class FleetHandles:
    """What asks the replicas of a fleet.

    Attributes:
        click: replicas for what somebody waits for.
        batch: replicas for everything else.
        reports: asks every click replica for its report; leaves out those that do not answer.
    """

    click: ReplicaHandle
    batch: ReplicaHandle
    reports: Callable[[], tuple[ReplicaReport, ...]]


def build_remote_side(
    settings: Settings,
    store: Store,
    metrics: Metrics,
    connect: Callable[[Settings], FleetHandles] | None = None,
) -> PredictionSide:
    """Builds what predicts by asking replicas; nothing is connected yet.

    Args:
        settings: with the address of a fleet.
        store: the database.
        metrics: count tasks.
        connect: connects to a fleet, in place of Ray.
    """
    closing = threading.Event()
    tries = metrics.counter(
        "calico_fleet_tries", "Times a replica was asked, by outcome.", ["pool", "outcome"]
    )

    def pool(name: str, handle: ReplicaHandle, try_s: float) -> ReplicaPool:
        return ReplicaPool(
            name,
            handle,
            try_s=try_s,
            note_try=lambda outcome: tries.labels(name, outcome).inc(),
            pause=closing.wait,
        )

    def load() -> RemoteFleet:
        handles = _connect_patiently(settings, connect or connect_over_ray, closing)
        fleet = RemoteFleet(
            pool(CLICK, handles.click, settings.fleet_try_s),
            pool(BATCH, handles.batch, _BATCH_TRY * settings.fleet_try_s),
            handles.reports,
        )
        while not fleet.refresh():
            if closing.wait(_RETRY_S):
                raise FleetError("the server is closing")
        watch = threading.Thread(target=_watch, args=(fleet, closing), daemon=True)
        watch.name = "fleet-watch"
        watch.start()
        return fleet

    host = ModelHost(load)
    return PredictionSide(
        host,
        RemoteTaskPredictor(host, metrics, pause=closing.wait),
        build_registry(settings, store, metrics),
        # Batches may wait long for replicas that are only being started; clicks must not.
        urgent_workers=settings.predict_workers // 2,
        on_close=closing.set,
    )


def _connect_patiently(
    settings: Settings, connect: Callable[[Settings], FleetHandles], closing: threading.Event
) -> FleetHandles:
    """Connects as soon as there is a fleet; until then the server says it is loading."""
    last_reason = ""
    while True:
        try:
            return connect(settings)
        except Exception as error:  # Ray has many, and all may pass
            reason = str(error).strip()[:500]
            if reason != last_reason:
                about = {"event": "fleet_unreachable", "address": settings.fleet_address}
                _log.warning("no fleet yet: %s", reason, extra=about)
            last_reason = reason
            if closing.wait(_RETRY_S):
                raise FleetError("the server is closing") from error


def _watch(fleet: RemoteFleet, closing: threading.Event) -> None:
    while not closing.wait(_WATCH_S):
        try:
            fleet.refresh()
        except Exception:  # asked again soon; answers do not depend on it
            _log.exception("replicas", extra={"event": "fleet_watch_failed"})


def is_one_machine(host: str) -> bool:
    """Whether a fleet with its head there cannot have other machines.

    Ray takes these names for the whole machine. Other loopback addresses, such as 127.0.0.2, are
    machines of their own to it, which is of use for trying out.
    """
    return host in ("127.0.0.1", "localhost")


def ray_environment(settings: Settings) -> dict[str, str]:
    """Returns the variables that Ray's processes of a fleet need, and those that ask them."""
    variables = {
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    if settings.fleet_token_file is not None:
        variables["RAY_AUTH_TOKEN_PATH"] = str(settings.fleet_token_file.absolute())
    if is_one_machine((settings.fleet_address or "").rpartition(":")[0]):
        # Else Ray replaces a loopback address by that of the network, where nobody listens.
        variables["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    return variables


def require_ray() -> None:
    """Raises FleetError where the extra `fleet` is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise FleetError("a fleet needs Ray: pip install 'calico-labeling[fleet]'")


def join_cluster(settings: Settings) -> Any:
    """Connects this process to Ray's cluster, once; returns the module `ray.serve`.

    Raises:
        FleetError: the extra `fleet` is not installed.
    """
    export_variables(ray_environment(settings))
    require_ray()
    import ray
    from ray import serve

    if not ray.is_initialized():
        ray.init(
            address=settings.fleet_address,
            namespace=NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
        )
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    return serve


def connect_over_ray(settings: Settings) -> FleetHandles:
    """Returns what asks the fleet at `settings.fleet_address`.

    Raises:
        FleetError: the extra `fleet` is not installed.
        Exception: those of Ray, when there is no fleet.
    """
    serve = join_cluster(settings)
    click, batch = (serve.get_deployment_handle(name, app_name=name) for name in (CLICK, BATCH))

    def reports() -> tuple[ReplicaReport, ...]:
        found = click.broadcast(REPORT).results(timeout_s=_REPORT_S, return_exceptions=True)
        return tuple(_read_reports(found))

    return FleetHandles(click, batch, reports)


def _read_reports(found: Iterable[object]) -> Iterable[ReplicaReport]:
    for body in found:
        if not isinstance(body, bytes):
            continue
        try:
            yield decode_report(body)
        except FleetError as error:  # of another release
            _log.info("%s", error, extra={"event": "replica_report_unreadable"})
