"""Wiring: settings in, a Flask app out, with everything it holds built here and closed together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Flask, Response, g, request

import calico_model
from backend.errors import RequestError
from backend.inference_priority import InferencePriority
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.names import StudioNames
from backend.served_model import AdaptableModel
from backend.serving.adapter_registry import AdapterRegistry
from backend.serving.auth import Credentials
from backend.serving.descriptors import Descriptors
from backend.serving.failures import answer_failures
from backend.serving.late_answers import LateSender
from backend.serving.logs import new_request_id, request_id
from backend.serving.metrics import Metrics
from backend.serving.model_host import ModelHost
from backend.serving.model_thread import ModelThread
from backend.serving.naming import ProjectNames
from backend.serving.prewarming import Prewarmer
from backend.serving.refreshing import Refresher
from backend.serving.remembering import PrototypeIndexer
from backend.serving.rendering import arranged, code_version, render_regions
from backend.serving.routes import build_routes
from backend.serving.service import PredictionService
from backend.serving.studio import (
    StudioTasks,
    connect_client,
    image_source,
    prediction_sender,
    studio_names,
    upcoming_tasks,
)
from backend.serving.task_predictor import GroupSource, TaskPredictor
from backend.settings import Settings
from backend.storage.store import Store, open_store
from backend.storage.versions import Versions
from calico_model.inference.arrangement import Arrangement

if TYPE_CHECKING:
    from calico_model.loading.memory_plan import MemoryPlan

_log = logging.getLogger(__name__)
_OPEN_ENDPOINT = "calico.health"
_RESERVED_THREADS = 8  # always free for /health, /setup and /webhook
SHIPPED_WEIGHTS = Path(calico_model.__file__).parent / "weights" / "calico-tiny"


@dataclass(frozen=True)
class Parts:
    """Everything one app holds, for its routes and for closing."""

    settings: Settings
    store: Store
    metrics: Metrics
    host: ModelHost
    service: PredictionService
    sender: LateSender | None
    refresher: Refresher | None
    prototype_indexer: PrototypeIndexer
    prewarmer: Prewarmer
    names: StudioNames

    def stop_waiting(self) -> None:
        """Answers whoever waits for the model, because the process is about to stop."""
        self.service.close()

    def close(self) -> None:
        """Stops every thread and closes the database."""
        self.prewarmer.close()
        self.prototype_indexer.close()
        if self.refresher is not None:
            self.refresher.close()
        self.service.close()
        if self.sender is not None:
            self.sender.close()
        self.store.close()


def create_app(
    settings: Settings,
    *,
    load: Callable[[], AdaptableModel] | None = None,
    images: GroupSource | None = None,
    client: LabelStudioClient | None = None,
) -> Flask:
    """Builds the app and begins to load the weights in the background.

    Args:
        settings: everything a deployment chooses.
        load: builds the predictor instead of the one in `settings`.
        images: fetches images instead of Label Studio's API.
        client: Label Studio's API instead of the one in `settings`.

    Raises:
        StoreError: the database cannot be opened.
    """
    parts = build_parts(settings, load=load, images=images, client=client)
    app = Flask("calico", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.extensions["calico"] = parts
    answer_failures(app)
    _watch_requests(app, parts.metrics, Credentials.of(settings))
    routes = build_routes(
        parts.store,
        parts.host,
        parts.service,
        parts.metrics,
        parts.prewarmer.open,
        parts.names.announce,
    )
    app.register_blueprint(routes)
    parts.host.start()
    return app


def close_app(app: Flask) -> None:
    """Closes everything an app of `create_app` holds."""
    app.extensions["calico"].close()


def load_shipped(settings: Settings) -> AdaptableModel:
    """Loads the configured weights, by default the ones this package ships.

    Raises:
        CheckpointError: missing or unusable weights.
        InsufficientMemoryError: they do not fit the device.
    """
    # Importing torch takes seconds; this runs in the loading thread while /health already answers.
    from backend.serving.loaded_model import BasePredictor
    from calico_model.loading.checkpoints import fingerprint
    from calico_model.predictor import load_predictor

    weights = settings.weights or SHIPPED_WEIGHTS
    thread = ModelThread()
    model = thread.run(
        lambda: load_predictor(
            weights,
            device=settings.device,
            threads=settings.model_threads,
            precision=settings.precision,
            on_plan=_log_plan,
        )
    )
    return BasePredictor(model, fingerprint(weights), thread)


def _log_plan(plan: MemoryPlan) -> None:
    placement = plan.placement
    _log.info(
        "loading weights",
        extra={
            "event": "memory_plan",
            "precision": placement.precision.value,
            "device": placement.device,
            "encoders_on_cpu": placement.are_encoders_offloaded,
            "images_at_once": placement.images_at_once,
            "weight_bytes": plan.weight_bytes,
            "peak_bytes": plan.peak_bytes(placement.device),
        },
    )


def build_parts(
    settings: Settings,
    *,
    load: Callable[[], AdaptableModel] | None = None,
    images: GroupSource | None = None,
    client: LabelStudioClient | None = None,
) -> Parts:
    """Builds everything behind the routes; `Parts.host.start` begins to load the weights.

    The arguments are those of `create_app`.

    Raises:
        StoreError: the database cannot be opened.
    """
    client = client or connect_client(settings)
    store = open_store(
        settings.store_url,
        queue_size=settings.journal_queue,
        commit_timeout_s=settings.commit_timeout_ms / 1000,
        cached_predictions=settings.cached_predictions,
        cached_prediction_bytes=settings.cached_prediction_bytes,
    )
    metrics = Metrics()
    host = ModelHost(load or (lambda: load_shipped(settings)))
    order = Arrangement(overlaps=settings.settle_overlaps, gaps=settings.unknown_parts)
    sender = None if client is None else LateSender(prediction_sender(client), metrics)
    known_as = studio_names(settings)
    source = images or image_source(settings, client, known_as)
    prototype_indexer = PrototypeIndexer(store, source, lambda: host.predictor)
    names = ProjectNames(prototype_indexer.accepted, settings.name_least_chance)
    lines = AdapterRegistry(
        Versions(store, settings.adapters_dir), metrics, start_from=settings.start_from_project
    )
    task_predictor = TaskPredictor(
        host,
        source,
        arranged(render_regions, order),
        store,
        metrics,
        code=code_version(order),
        lines=lines,
        names=names if settings.name_regions else None,
        refines=settings.refine_clicks,
        click_budget_s=settings.click_budget_s,
    )
    service = PredictionService(
        host,
        task_predictor,
        metrics,
        push=None if sender is None else sender.push,
        budget_s=settings.predict_budget_s,
        seats=settings.threads - _RESERVED_THREADS,
        capacity=settings.predict_queue,
        lines=lines,
        inference_priority=InferencePriority(settings.inference_priority_file),
    )
    refresher = build_refresher(settings, store, host, service, client)
    prewarmer = Prewarmer(
        task_predictor,
        service,
        None if client is None else upcoming_tasks(client),
        max_bytes=settings.prefetch_bytes,
    )
    metrics.watch("calico_queue_depth", "Tasks that wait.", lambda: service.waiting)
    metrics.watch("calico_journal_depth", "Changes that wait.", lambda: store.waiting)
    return Parts(
        settings,
        store,
        metrics,
        host,
        service,
        sender,
        refresher,
        prototype_indexer,
        prewarmer,
        known_as,
    )


def build_refresher(
    settings: Settings,
    store: Store,
    host: ModelHost,
    service: PredictionService,
    client: LabelStudioClient | None,
) -> Refresher | None:
    """Returns what predicts again after a promotion, not started yet; None if nobody wants it."""
    if client is None or not settings.refresh:
        return None
    user, password = settings.basic_auth_user, settings.basic_auth_password
    credentials = None if user is None or password is None else (user, password.get_secret_value())

    def titles() -> frozenset[str]:
        return frozenset(store.versions()) | ({host.version} if host.version else set())

    return Refresher(
        lambda: Versions(store, settings.adapters_dir).projects(),
        service,
        StudioTasks(client, credentials, titles),
        Descriptors(store),
        base=lambda: host.version,
    )


def _watch_requests(app: Flask, metrics: Metrics, credentials: Credentials | None) -> None:
    @app.before_request
    def _begin() -> None:
        g.began = time.monotonic()
        request_id.set(new_request_id(request.headers.get("X-Request-ID")))
        if credentials is not None and request.endpoint != _OPEN_ENDPOINT:
            credentials.check(request.headers.get("Authorization"))
        encoding = request.headers.get("Content-Encoding", "identity").lower()
        if encoding != "identity":
            raise RequestError(
                f"expected an uncompressed body, got {encoding[:40]!r}",
                field="header Content-Encoding",
            )

    @app.teardown_request
    def _forget(_error: BaseException | None) -> None:
        request_id.set(None)

    @app.after_request
    def _end(response: Response) -> Response:
        seconds = time.monotonic() - g.began
        endpoint = (request.endpoint or "unknown").removeprefix("calico.")
        metrics.requests.labels(endpoint, response.status_code).inc()
        metrics.request_seconds.labels(endpoint).observe(seconds)
        response.headers["X-Request-ID"] = request_id.get() or ""
        level = logging.DEBUG if endpoint in ("health", "metrics") else logging.INFO
        _log.log(
            level,
            "%s %s",
            request.method,
            endpoint,
            extra={"event": "request", "status": response.status_code, "ms": round(seconds * 1000)},
        )
        return response
