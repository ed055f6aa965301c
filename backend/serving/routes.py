"""The routes Label Studio calls: parse at the wire door, call a service, render at the wire door.

No route works for long: /health and /setup answer from memory, /versions reads one small table
without waiting for writers (Label Studio gives it 3 s), /webhook waits for one commit, /predict for
the prediction queue within its budget.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
from flask import Blueprint, Response, current_app, request, url_for
from werkzeug.exceptions import HTTPException

from backend.errors import RequestError
from backend.label_studio.event import parse_events
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.request import parse_predict_request, parse_setup_request
from backend.label_studio.response import setup_answer, versions_answer
from backend.served_model import NamedWeights
from backend.serving.http_connection import client_disconnected
from backend.serving.metrics import Metrics
from backend.serving.model_host import ModelHost
from backend.serving.rendering import render_answers
from backend.serving.service import PredictionService
from backend.storage.store import Store
from backend.types import Task

_JSON = "application/json"


def build_routes(
    store: Store,
    host: ModelHost[NamedWeights],
    service: PredictionService,
    metrics: Metrics,
    on_open: Callable[[Task], None],
    on_setup: Callable[[str | None], None],
) -> Blueprint:
    """Returns every route of the backend.

    Args:
        store: the journal of events.
        host: holds the model.
        service: predicts.
        metrics: count events.
        on_open: called with every task that an annotator opens.
        on_setup: called with the host name under which Label Studio knows itself, or None.
    """
    routes = Blueprint("calico", __name__)

    @routes.get("/")
    def front_door() -> Response:
        # Label Studio asks /health; probes of other servers of its kind ask here.
        return _way_to_the_pages() or health()

    @routes.get("/health")
    def health() -> Response:
        store.health.check()
        return _json({"status": "UP", "model": host.state.value})

    @routes.post("/setup")
    def setup() -> Response:
        # Refused here, a config that cannot work shows as an error in the project's settings.
        parsed = parse_setup_request(_body())
        parse_label_config(parsed.label_config)
        host.check()
        on_setup(parsed.hostname)
        version = service.announced(service.current(parsed.project_id))
        return Response(setup_answer(version), mimetype=_JSON)

    @routes.post("/predict")
    def predict() -> Response:
        parsed = parse_predict_request(_body())
        # Read once: whatever is published meanwhile, this version answers the request.
        version = service.current(parsed.project_id)
        is_gone = client_disconnected(request.environ)
        # Commands ask for tasks that nobody opens.
        is_background = request.args.get("background") == "1"
        results = service.predict(
            parsed, version, is_client_gone=is_gone, is_background=is_background
        )
        if len(parsed.tasks) == 1 and not parsed.prompts and not is_background:
            on_open(parsed.tasks[0])
        body = render_answers(parsed, results, service.announced(version))
        return Response(body, mimetype=_JSON)

    @routes.post("/webhook")
    def webhook() -> Response:
        events = parse_events(_body())
        began = time.monotonic()
        new = store.record_events(events)
        metrics.commit_seconds.observe(time.monotonic() - began)
        if events:
            action = events[0].action.value
            metrics.events.labels(action, "new").inc(new)
            metrics.events.labels(action, "duplicate").inc(len(events) - new)
        return _json({"events": len(events), "new": new}, status=201 if new else 200)

    @routes.route("/versions", methods=["GET", "POST"])
    def versions() -> Response:
        base = () if host.version is None else (host.version,)
        return Response(versions_answer((*store.versions(), *base)), mimetype=_JSON)

    @routes.get("/metrics")
    def read_metrics() -> Response:
        return Response(metrics.text(), mimetype="text/plain; version=0.0.4")

    return routes


def _way_to_the_pages() -> Response | None:
    """Sends a browser to the pages for people; None for others, or without pages."""
    is_browser = "text/html" in request.headers.get("Accept", "")
    if not is_browser or "ui" not in current_app.blueprints:
        return None
    return Response(status=302, headers={"Location": url_for("ui.show_projects")})


def _body() -> bytes:
    try:
        return request.get_data(cache=False)
    except HTTPException:  # too large, or the client left
        raise
    except Exception as error:  # every server has its own error for broken chunks
        raise RequestError(
            f"expected a whole body ({type(error).__name__})", field="body"
        ) from error


def _json(value: dict[str, object], *, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status=status, mimetype=_JSON)
