"""A real server to measure: `calico serve` in its own process and folder, on loopback."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backend.cli.label_studio_process import free_port
from backend.errors import BackendError
from backend.settings import describe_settings
from calico_model.types import RgbImage
from research.label_studio.sample import local_file_url

JSON_HEADERS = {"Content-Type": "application/json"}
_HOST = "127.0.0.1"


class BenchError(BackendError):
    """The server to measure does not start, or does not answer."""


def percentile_ms(seconds: Sequence[float], percent: float) -> float:
    """Returns a percentile of times in milliseconds, rounded to a tenth.

    Raises:
        BenchError: there are no times.
    """
    if not seconds:
        raise BenchError("nothing was measured; take more --seconds")
    return round(float(np.percentile(seconds, percent)) * 1000, 1)


@dataclass(frozen=True)
class ServerReply:
    """One HTTP answer of the server, and the seconds until it was complete."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float


@dataclass(frozen=True)
class BenchServer:
    """A running server.

    Attributes:
        port: TCP port on 127.0.0.1.
        files: folder of the images behind `/data/local-files/`.
        process_id: of the server's first process; None where the bench did not start it.
    """

    port: int
    files: Path
    process_id: int | None = None

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://{_HOST}:{self.port}"

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 120.0,
    ) -> ServerReply:
        """Sends one request on a new connection, as Label Studio does.

        Raises:
            BenchError: the server does not answer.
        """
        began = time.monotonic()
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=timeout_s)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(f"{method} {path}: no answer ({type(error).__name__})") from error
        finally:
            connection.close()
        return ServerReply(answer.status, dict(answer.headers), content, time.monotonic() - began)

    def predict(self, body: bytes) -> ServerReply:
        """Sends one request to /predict.

        Raises:
            BenchError: the server does not answer, or a task could not be predicted.
        """
        reply = self.ask("POST", "/predict", body, JSON_HEADERS)
        if reply.status != 200 or b'"problem"' in reply.body:
            raise BenchError(f"a request was answered {reply.status}: {reply.body[:200]!r}")
        return reply

    def model_state(self) -> str:
        """Returns loading, ready or failed."""
        return str(json.loads(self.ask("GET", "/health").body)["model"])

    def settle(self, timeout_s: float = 300.0) -> str:
        """Waits until the model has loaded; returns ready or failed.

        Raises:
            BenchError: the model still loads after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while (state := self.model_state()) == "loading":
            if time.monotonic() > deadline:
                raise BenchError(f"the model still loads after {timeout_s:g} s")
            time.sleep(0.2)
        return state

    def wait_for_model(self) -> None:
        """Waits until the weights are loaded.

        Raises:
            BenchError: the weights cannot be loaded.
        """
        if self.settle() != "ready":
            raise BenchError("the weights cannot be loaded; see the server's log")

    def kill(self) -> None:
        """Ends the server at once, as a power cut would (SIGKILL)."""
        assert self.process_id is not None
        os.killpg(self.process_id, signal.SIGKILL)

    def draw_files(self, count: int, *, size_px: int = 256, seed: int = 0) -> tuple[str, ...]:
        """Writes images of coloured noise blocks; returns their URLs."""
        rng = np.random.default_rng(seed)
        blocks = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
        pixels = np.ones((size_px // 8, size_px // 8, 1), np.uint8)
        return self.keep_files([np.kron(block, pixels) for block in blocks], "blocks")

    def keep_files(self, images: Sequence[RgbImage], name: str) -> tuple[str, ...]:
        """Writes images as PNG files whose names begin with `name`; returns their URLs."""
        files = [f"{name}-{number}.png" for number in range(len(images))]
        for file, image in zip(files, images, strict=True):
            Image.fromarray(image).save(self.files / file)
        return tuple(map(local_file_url, files))


@contextmanager
def repeated(work: Callable[[], object], pause_s: float) -> Iterator[None]:
    """Calls `work` again and again, in a thread, while the block runs."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(pause_s):
            work()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def running_server(weights: Path | None = None, **variables: str) -> Iterator[BenchServer]:
    """Starts `calico serve`, waits until /health answers, and stops it afterwards.

    Args:
        weights: model folder; the shipped weights if None.
        variables: environment variables to add; CALICO_TRAINER=true also starts a trainer.

    Raises:
        BenchError: the server does not start.
    """
    with running_servers(1, weights, **variables) as (server,):
        yield server


@contextmanager
def running_servers(
    count: int, weights: Path | None = None, **variables: str
) -> Iterator[tuple[BenchServer, ...]]:
    """Starts several servers with one folder of images, and a data folder each.

    Args:
        count: of servers.
        weights, variables: as in `running_server`; CALICO_DATABASE_URL lets them share a database.

    Raises:
        BenchError: a server does not start.
    """
    with tempfile.TemporaryDirectory(prefix="calico-bench-") as folder, ExitStack() as stack:
        files = Path(folder) / "files"
        files.mkdir()
        previous = exit_on_termination()
        if previous is not None:
            stack.callback(signal.signal, signal.SIGTERM, previous)
        started = [
            stack.enter_context(
                _starting(Path(folder) / f"data-{number}", files, weights, variables)
            )
            for number in range(count)
        ]
        for server, process in started:
            _wait_until_up(server, process)
        yield tuple(server for server, _ in started)


@contextmanager
def _starting(
    data: Path, files: Path, weights: Path | None, variables: Mapping[str, str]
) -> Iterator[tuple[BenchServer, subprocess.Popen[bytes]]]:
    port = free_port()
    environment = {
        "CALICO_LOCAL_FILES_ROOT": str(files),
        "CALICO_TRAINER": "false",
        **variables,
    }
    # `env` removes the settings of a real deployment: only settings.py may read them here.
    command = ["env", *(f"--unset={row.variable}" for row in describe_settings())]
    command += [f"{name}={value}" for name, value in environment.items()]
    command += [sys.executable, "-m", "backend.cli", "serve", "--log-level", "WARNING"]
    command += ["--host", _HOST, "--port", str(port), "--data-dir", str(data)]
    command += [] if weights is None else ["--weights", str(weights)]
    # In a group of its own, so that `BenchServer.kill` reaches the process that answers, too.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield BenchServer(port, files, process.pid), process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def exit_on_termination() -> Any:
    """Makes SIGTERM also end the server; returns the previous handler, None in other threads."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


def _wait_until_up(server: BenchServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BenchError(f"the server ended with status {process.returncode}")
        try:
            server.ask("GET", "/health", timeout_s=5.0)
        except BenchError:
            time.sleep(0.05)
        else:
            return
    raise BenchError("the server did not answer /health within 60 s")
