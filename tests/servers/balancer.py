"""An HTTP balancer for tests: servers in turn, and the next one if one does not answer.

Predictions and webhooks may be repeated, so a request whose server died is asked again elsewhere.
"""

from __future__ import annotations

import itertools
import threading
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Balancer:
    """Which servers are asked; `urls` may be changed at any time."""

    def __init__(self, urls):
        self.urls, self.repeated = list(urls), 0
        self._turn = itertools.count()

    def ask(self, method, path, body, headers):
        """Returns status, content type and body of the first server that answers."""
        for _ in range(4):
            urls = self.urls
            place = urlsplit(urls[next(self._turn) % len(urls)])
            connection = HTTPConnection(place.hostname, place.port, timeout=100)
            try:
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, HTTPException):
                self.repeated += 1
                continue
            finally:
                connection.close()
            if answer.status != 503:
                return answer.status, answer.headers["Content-Type"], content
            self.repeated += 1
        return 502, "text/plain", b"no server answers"


@contextmanager
def balanced(urls):
    """Yields a balancer and its address."""
    balancer = Balancer(urls)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kept = {"Content-Type": self.headers.get("Content-Type", "")}
            status, kind, content = balancer.ask("POST", self.path, body, kept)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_words):
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield balancer, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
