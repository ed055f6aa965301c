"""The process that serves: gunicorn, one worker that holds the model, many request threads."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from types import FrameType

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers.base import Worker

from backend.app import PAGES_AT_ONCE, close_app, create_server_app
from backend.errors import NotReadyError, SettingsError
from backend.served_model import NamedWeights
from backend.serving.http_request import ReceiveLimits
from backend.serving.http_worker import worker_with_limits
from backend.serving.logs import LogFormat, TextFormatter, start_logging
from backend.serving.model_host import ModelHost
from backend.serving.request_checks import Credentials
from backend.settings import Settings, load_settings
from backend.storage.folder_lock import served_alone, take_lock
from backend.storage.store import open_store

_log = logging.getLogger(__name__)
_RELOAD_S = 25.0
_EVERYWHERE = ("0.0.0.0", "::", "")
_NEXT_STEP = (
    "make a project of Label Studio from a second terminal: calico new-project --title T --labels "
    "a,b,c (or connect one: calico connect --project ID); Ctrl-C stops the backend"
)


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
            "worker_class": worker_with_limits(_limits(self._settings)),
            "threads": self._settings.threads + PAGES_AT_ONCE,
            "timeout": 120,
            "graceful_timeout": 20,
            "keepalive": 20,
            "sendfile": False,
            "control_socket_disable": True,
            "logger_class": _RootLogger,
            "loglevel": self._settings.log_level.lower(),
            "post_worker_init": self._begin_work,
            "worker_exit": _close,
        }
        for name, value in chosen.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Builds the app inside the worker: threads and connections do not survive a fork."""
        return create_server_app(self._settings)

    def _begin_work(self, worker: Worker) -> None:
        _answer_waiters_on_stop(worker)
        port = worker.sockets[0].getsockname()[1]
        host = self._settings.host if self._settings.host not in _EVERYWHERE else "127.0.0.1"
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        model = worker.app.callable.extensions["calico"].host
        threading.Thread(target=announce, args=(model, url), daemon=True).start()


def announce(model: ModelHost[NamedWeights], url: str, patience_s: float | None = None) -> None:
    """Logs where the server is and what to do next, once the model is loaded.

    Args:
        model: that is loaded.
        url: where the server answers.
        patience_s: seconds to wait for the model; None waits as long as it loads.
    """
    try:
        model.wait(patience_s)
    except NotReadyError:
        return  # the log has the reason
    _log.info(
        "ready at %s; the pages are at %s/ui",
        url,
        url,
        extra={"event": "ready", "next_step": _NEXT_STEP},
    )


def run_server(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        StoreError: the database cannot be opened, or another server has it; raised before any
            process is started.
        SettingsError: something else listens on the port.
    """
    start_logging(settings.log_level, LogFormat(settings.log_format))
    # Held here and not in the worker, which may be replaced by another.
    with served_alone(settings.store_url):
        open_store(settings.store_url).close()
        _check_port(settings)
        _log.info("the model is loading", extra={"event": "starting"})
        Server(settings).run()


def _check_port(settings: Settings) -> None:
    """Refuses a port that something else listens on, in one sentence instead of five retries."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise SettingsError(
                f"--port: cannot listen on {settings.host}:{settings.port} ({error.strerror}); "
                "stop what listens there (a demo? `make stop`), or choose another port"
            ) from error


def application() -> Flask:
    """For other WSGI servers, as `gunicorn --threads 32 'backend._wsgi:application()'`."""
    settings = load_settings()
    start_logging(settings.log_level, LogFormat(settings.log_format))
    # Held until this process ends; the process it replaces may still be stopping.
    take_lock(settings.store_url, patience_s=_RELOAD_S)
    return create_server_app(settings)


def _limits(settings: Settings) -> ReceiveLimits:
    """Returns what may be received: bodies only with credentials that the app will accept."""
    credentials = Credentials.of(settings)
    if credentials is None:
        return ReceiveLimits(settings.max_body_bytes)
    return ReceiveLimits(settings.max_body_bytes, credentials.accepts)


class _RootLogger(Logger):  # type: ignore[misc]
    """Lets gunicorn's messages through our handler; requests are logged by the app."""

    def setup(self, cfg: Config) -> None:
        """Replaces gunicorn's own handlers."""
        super().setup(cfg)
        self.error_log.handlers[:] = []
        self.error_log.propagate = True
        # People at a terminal read "ready at ..." instead of the numbers of processes.
        root = logging.getLogger().handlers
        if root and isinstance(root[0].formatter, TextFormatter):
            self.error_log.setLevel(max(logging.WARNING, self.error_log.level))


def _answer_waiters_on_stop(worker: Worker) -> None:
    # A request may wait for the model longer than the grace period: most are answered "not yet".
    stop = signal.getsignal(signal.SIGTERM)

    def on_stop(number: int, frame: FrameType | None) -> None:
        if callable(stop):
            stop(number, frame)
        worker.app.callable.extensions["calico"].stop_waiting()

    signal.signal(signal.SIGTERM, on_stop)


def _close(_arbiter: Arbiter, worker: Worker) -> None:
    app = getattr(worker.app, "callable", None)
    if app is not None:
        close_app(app)
