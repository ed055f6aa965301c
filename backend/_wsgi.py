"""The process that serves: gunicorn, one worker that holds the model, many request threads.

Beside the requests it looks again and again for events that Label Studio could not deliver, and
keeps the trainer process alive where one is wanted.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers.base import Worker

from backend.app import Parts, close_app, create_app
from backend.label_studio.client import LabelStudioClient
from backend.learning.overview import Overview
from backend.learning.reconcile import Repair
from backend.learning.reconcile_loop import ReconcileWatch
from backend.learning.repository import CorrectionRepository
from backend.learning.supervisor import TrainerWatch
from backend.serving.auth import Credentials
from backend.serving.http_request import ArrivalLimits
from backend.serving.http_worker import limited
from backend.serving.logs import start_logging
from backend.serving.metrics import Metrics
from backend.serving.request_limit import Seats
from backend.serving.studio import connect_client
from backend.settings import Settings, load_settings
from backend.storage.folder_lock import served_alone, take_lock
from backend.storage.store import Store, open_store
from backend.storage.versions import Versions
from backend.ui.opening import open_pages
from backend.ui.status_routes import build_status_routes

_WATCH = "calico.watch"
_TRAINER = "calico.trainer"
_PAGES_AT_ONCE = 8  # a browser asks for six pictures at once
_RELOAD_S = 25.0


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn set up from `Settings`; no development server exists in this product."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Maps our settings onto gunicorn's."""
        host = self._settings.host
        chosen = {
            "bind": f"[{host}]:{self._settings.port}"
            if ":" in host
            else f"{host}:{self._settings.port}",
            "workers": 1,
            "worker_class": limited(_limits(self._settings)),
            "threads": self._settings.threads + _PAGES_AT_ONCE,
            "timeout": 120,
            "graceful_timeout": 20,
            "keepalive": 20,
            "sendfile": False,
            "control_socket_disable": True,
            "logger_class": _RootLogger,
            "loglevel": self._settings.log_level.lower(),
            "post_worker_init": _answer_waiters_on_stop,
            "worker_exit": _close,
        }
        for name, value in chosen.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Builds the app inside the worker: threads and connections do not survive a fork."""
        return _create_watched(self._settings)


def run_server(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        StoreError: the database cannot be opened, or another server has it; said before any
            process is started.
    """
    start_logging(settings.log_level)
    # Held here and not in the worker, which may be replaced by another.
    with served_alone(settings.store_url):
        open_store(settings.store_url).close()
        Server(settings).run()


def application() -> Flask:
    """For other WSGI servers: `gunicorn --threads 32 'backend._wsgi:application()'`."""
    settings = load_settings()
    start_logging(settings.log_level)
    # Held until this process ends; the one it replaces may still be stopping.
    take_lock(settings.store_url, patience_s=_RELOAD_S)
    return _create_watched(settings)


def build_watch(store: Store, metrics: Metrics, client: LabelStudioClient) -> ReconcileWatch:
    """Returns what finds lost events and counts them; not started yet."""

    def count(_project_id: int, repair: Repair | None) -> None:
        if repair is None:
            metrics.reconcile_failures.inc()
            return
        metrics.reconciled_at.set_to_current_time()
        metrics.reconciled.labels("change").inc(repair.recovered)
        metrics.reconciled.labels("deletion").inc(repair.deleted)
        metrics.reconciled.labels("unreadable").inc(repair.unreadable)

    return ReconcileWatch(CorrectionRepository(store), client, on_done=count)


def trainer_command(settings: Settings) -> list[str]:
    """The command line of a trainer beside this process, which ends when this process does."""
    options = {
        "--data-dir": settings.data_dir,
        "--weights": settings.weights,
        "--device": settings.device,
        "--precision": settings.precision,
        "--label-studio-url": settings.label_studio_url,
        "--log-level": settings.log_level,
        "--parent": os.getpid(),
    }
    given = [(name, str(value)) for name, value in options.items() if value is not None]
    return [sys.executable, "-m", "backend.cli", "trainer", *(word for o in given for word in o)]


def _limits(settings: Settings) -> ArrivalLimits:
    """What may be received: bodies of those alone whose credentials the app will accept."""
    credentials = Credentials.of(settings)
    if credentials is None:
        return ArrivalLimits(settings.max_body_bytes)
    return ArrivalLimits(settings.max_body_bytes, credentials.accepts)


def _create_watched(settings: Settings) -> Flask:
    app = create_app(settings)
    parts: Parts = app.extensions["calico"]
    versions = Versions(parts.store, settings.adapters_dir)
    overview = Overview(parts.store, versions, start_from=settings.start_from_project)
    pages_at_once = Seats(_PAGES_AT_ONCE, "pages and pictures")
    status_routes = build_status_routes(parts.store, overview)
    pages_at_once.guard(status_routes)
    app.register_blueprint(status_routes)
    if settings.trainer:
        watch = TrainerWatch(
            trainer_command(settings), on_death=lambda _: parts.metrics.trainer_deaths.inc()
        )
        app.extensions[_TRAINER] = watch
        parts.metrics.watch(
            "calico_trainer_up", "Whether the trainer runs.", lambda: watch.process_id is not None
        )
        watch.start()
    client = connect_client(settings)
    if client is not None:
        app.extensions[_WATCH] = build_watch(parts.store, parts.metrics, client)
        app.extensions[_WATCH].start()
    pages = open_pages(parts, overview, client)
    pages_at_once.guard(pages)
    app.register_blueprint(pages)
    if parts.refresher is not None:
        parts.refresher.start()
    if settings.name_regions:
        parts.prototype_indexer.start()
    return app


class _RootLogger(Logger):  # type: ignore[misc]
    """Lets gunicorn's messages through our JSON handler; requests are logged by the app."""

    def setup(self, cfg: Config) -> None:
        """Replaces gunicorn's own handlers."""
        super().setup(cfg)
        self.error_log.handlers[:] = []
        self.error_log.propagate = True


def _answer_waiters_on_stop(worker: Worker) -> None:
    # A request may wait for the model longer than the grace period: answer "not yet" instead.
    stop = signal.getsignal(signal.SIGTERM)

    def on_stop(number: int, frame: FrameType | None) -> None:
        if callable(stop):
            stop(number, frame)
        worker.app.callable.extensions["calico"].stop_waiting()

    signal.signal(signal.SIGTERM, on_stop)


def _close(_arbiter: Arbiter, worker: Worker) -> None:
    app = getattr(worker.app, "callable", None)
    if app is not None:
        if (trainer := app.extensions.get(_TRAINER)) is not None:
            trainer.close()
        if (watch := app.extensions.get(_WATCH)) is not None:
            watch.close()
        close_app(app)
