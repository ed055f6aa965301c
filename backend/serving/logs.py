"""Logs and counts every request; one JSON line per log record, with the id of its request."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

from flask import Flask, Response, g, request

from backend.errors import RequestError
from backend.serving.auth import Credentials
from backend.serving.metrics import Metrics

_log = logging.getLogger(__name__)
_OPEN_ENDPOINT = "calico.health"

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def new_request_id(offered: str | None) -> str:
    """Returns the id the caller offered when it is harmless, else a fresh one."""
    if offered is not None and _ACCEPTED_ID.fullmatch(offered):
        return offered
    return uuid.uuid4().hex


class JsonFormatter(logging.Formatter):
    """Writes ts, level, event, message, request_id, every `extra` field and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns one line of JSON."""
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "event": getattr(record, "event", record.name),
            "message": record.getMessage(),
        }
        if (current := request_id.get()) is not None:
            line["request_id"] = current
        line.update({k: v for k, v in vars(record).items() if k not in _STANDARD | {"event"}})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def start_logging(level: str, stream: TextIO | None = None) -> None:
    """Sends every record of this process, at or above `level`, to `stream` (stderr) as JSON."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # They log every outgoing request and migration step; ours say what matters.
    for chatty in ("httpx", "httpcore", "alembic", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def watch_requests(app: Flask, metrics: Metrics, credentials: Credentials | None) -> None:
    """Gives every request an id, checks its credentials and encoding, logs and counts its answer.

    Args:
        app: whose requests are watched.
        metrics: counts them.
        credentials: needed everywhere but at /health; None lets everybody in.
    """

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
