"""A small HTTP balancer: requests in turn to several servers, and again if one is gone or ends.

It stands for HAProxy or an ingress in measurements and tests; a deployment uses one of those.
"""

from __future__ import annotations

import http.client
import itertools
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from backend.cli.label_studio_process import free_port
from research.bench.server import BenchError, BenchServer

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
_HAPROXY_CONFIG = Path(__file__).parents[2] / "deploy" / "haproxy.cfg"
_UP_S = 60.0
_TRIES = 4  # as deploy/haproxy.cfg: the first try and three more
_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "server", "date"}
_STOPPING = 503


class Balancer(ThreadingHTTPServer):
    """Listens on a free loopback port.

    Args:
        ports: of the servers on 127.0.0.1.

    Attributes:
        ports: of the servers; may be changed at any time.
        repeated: how many tries had no answer, or that of a server that ends or is busy.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, ports: Sequence[int]) -> None:
        super().__init__(("127.0.0.1", 0), _Relay)
        self.ports, self.repeated = tuple(ports), 0
        self._turn, self._lock = itertools.count(), threading.Lock()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"

    def tries(self) -> Iterator[int]:
        """Yields the server of each try of the next request: another each time, as they are now."""
        with self._lock:
            first = next(self._turn)
        for number in range(_TRIES):
            ports = self.ports  # a server may have been replaced since the last try
            yield ports[(first + number) % len(ports)]

    def count_repeated(self) -> None:
        """Counts a try that has to be made again."""
        with self._lock:
            self.repeated += 1


class _Relay(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Balancer

    def do_GET(self) -> None:
        self._relay()

    def do_POST(self) -> None:
        self._relay()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def _relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        last: tuple[int, Sequence[tuple[str, str]], bytes] = (502, [], b"no server answers")
        for port in self.server.tries():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            try:
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException):
                self.server.count_repeated()
                continue  # predictions and webhooks may be sent again
            finally:
                connection.close()
            last = answer.status, answer.getheaders(), content
            if answer.status != _STOPPING:
                break
            self.server.count_repeated()
        return self._reply(*last)

    def _reply(self, status: int, headers: Sequence[tuple[str, str]], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP | {"content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def running_balancer(ports: Sequence[int]) -> Iterator[Balancer]:
    """Yields a balancer that listens in a thread, and stops it afterwards."""
    balancer = Balancer(ports)
    thread = threading.Thread(target=balancer.serve_forever, daemon=True)
    thread.start()
    try:
        yield balancer
    finally:
        balancer.shutdown()
        thread.join()
        balancer.server_close()


@contextmanager
def running_haproxy(ports: tuple[int, int]) -> Iterator[int]:
    """Yields the port of HAProxy, with the configuration of a deployment, in front of two servers.

    Args:
        ports: of the servers on 127.0.0.1.

    Raises:
        BenchError: no HAProxy is installed, or no server answers through it in time.
    """
    if HAPROXY is None:
        raise BenchError("no HAProxy is installed")
    port = free_port()
    places = {f"CALICO_SERVER_{n}": f"127.0.0.1:{one}" for n, one in enumerate(ports, start=1)}
    process = subprocess.Popen(
        [HAPROXY, "-f", str(_HAPROXY_CONFIG)],
        env=os.environ | places | {"CALICO_BIND": f"127.0.0.1:{port}"},
        stdout=subprocess.DEVNULL,
    )
    try:
        began = time.monotonic()
        while not _is_up(port):
            if process.poll() is not None or time.monotonic() - began > _UP_S:
                raise BenchError("HAProxy has ended, or no server answers through it")
            time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


def _is_up(port: int) -> bool:
    try:
        answer = BenchServer(port, Path()).ask("GET", "/health", timeout_s=5)
    except BenchError:
        return False
    return answer.status == 200
