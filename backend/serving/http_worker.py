"""gunicorn's threaded worker, with all network traffic in one loop instead of its threads.

The loop receives whole requests and delivers answers for every connection, so that a slow client
costs a few bytes of memory and no thread. A request has one deadline, however often a byte of it
comes. Requests that are refused before the app sees them get the same form of answer as all others:
4xx, JSON, with the field and a request id. Does not know the app.
"""

from __future__ import annotations

import errno
import logging
import selectors
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from gunicorn.http.errors import (
    ExpectationFailed,
    InvalidHTTPVersion,
    InvalidRequestLine,
    InvalidRequestMethod,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.workers.gthread import TConn, ThreadWorker

from backend.serving.failures import encode_failure
from backend.serving.http_connection import ClientSocket
from backend.serving.http_request import HEAD_BYTES, ReceiveLimits
from backend.serving.logs import new_request_id

_log = logging.getLogger(__name__)

MOST_CONNECTIONS = 512
"""Open connections; beyond, the connection that waits longest for a whole request is closed."""
SMALL_BYTES = 1024 * 1024
"""Requests up to this size are always received."""
_BODIES_AT_ONCE = 3  # of the largest size, in memory
_LINGER_S = 2.0
_SWEEP_S = 0.5

# The first class that fits decides: status with its reason, and field.
_REFUSALS: tuple[tuple[type[Exception], str, str], ...] = (
    (LimitRequestLine, "414 URI Too Long", "path"),
    (LimitRequestHeaders, "431 Request Header Fields Too Large", "headers"),
    (ExpectationFailed, "417 Expectation Failed", "header Expect"),
    (InvalidRequestMethod, "400 Bad Request", "method"),
    (InvalidRequestLine, "400 Bad Request", "request line"),
    (InvalidHTTPVersion, "400 Bad Request", "HTTP version"),
    (UnsupportedTransferCoding, "400 Bad Request", "header Transfer-Encoding"),
    (ParseException, "400 Bad Request", "headers"),
)


class _Connection(TConn):  # type: ignore[misc]
    """A connection, and the event that the loop waits for."""

    def __init__(
        self, cfg: object, client_socket: ClientSocket, client: object, server: object
    ) -> None:
        super().__init__(cfg, client_socket, client, server)
        self.data_ready = True  # a thread gets the connection when the request is whole
        self.sock: ClientSocket = client_socket
        self.next: Callable[[_Connection], None] | None = None
        """What the loop calls when the socket is ready; None while it is not watched."""
        self.is_served = False
        """Whether a thread has the connection."""
        self.until = 0.0
        """When the loop gives up sending or discarding."""
        self.is_kept = False
        """Whether the connection is used again after its answer."""


class HttpWorker(ThreadWorker):  # type: ignore[misc]
    """Receives and answers in one loop, serves in threads. All state belongs to the loop."""

    limits = ReceiveLimits()

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._connections: dict[_Connection, None] = {}  # the oldest first
        self._latest = float("inf")  # no connection waits for a client longer
        self._sweep_at = 0.0

    # gunicorn's own loop calls these.

    def accept(self, listener: socket.socket) -> None:
        """Accepts a client; at the ceiling, in place of the one that waits longest."""
        try:
            sock, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._drop_oldest()
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK):
                raise
            return
        if len(self._connections) >= MOST_CONNECTIONS and not self._drop_oldest():
            sock.close()
            return
        conn = _Connection(
            self.cfg, ClientSocket(sock, self.limits), address, listener.getsockname()
        )
        self._connections[conn] = None
        self.nr_conns += 1
        self._wait(conn, selectors.EVENT_READ, self._receive)

    def finish_request(self, conn: _Connection, served: Future[Any]) -> None:
        """Takes a connection back from its thread and begins to send the answer."""
        conn.is_served = False
        conn.is_kept = not served.cancelled() and served.exception() is None and served.result()
        if conn in self._connections:
            self._send(conn)

    def murder_keepalived(self, force: bool = False) -> None:
        """Closes every connection when the worker ends."""
        if force:
            for conn in list(self._connections):
                self._drop(conn)

    def murder_pending(self) -> None:
        """Gives up clients whose deadline has passed."""
        now = time.monotonic()
        if now < self._sweep_at:
            return
        self._sweep_at = now + _SWEEP_S
        for conn in list(self._connections):
            if not conn.is_served and self._deadline(conn) <= now:
                self._time_out(conn)

    def _cap_keepalive(self, deadline: float) -> None:
        """Lets no client keep a stopping worker waiting beyond the deadline."""
        self._latest = deadline

    # gunicorn's threads call these.

    def handle(self, conn: _Connection) -> bool:
        """Serves one request; returns whether the connection can be used again."""
        return bool(super().handle(conn)) and not conn.sock.request.is_truncated

    def handle_request(self, req: Any, conn: _Connection) -> bool:
        """Serves a parsed request."""
        req._expected_100_continue = False  # the loop has sent it already
        return bool(super().handle_request(req, conn))

    def handle_error(self, req: object, client: ClientSocket, addr: object, exc: Exception) -> None:
        """Answers a request that never reached the app, or broke outside it."""
        for kind, status, field in _REFUSALS:
            if isinstance(exc, kind):
                detail = f"{field}: {type(exc).__name__}, expected an HTTP/1.1 request"
                _refuse(client, status, "RequestError", detail, field)
                return
        _log.error("request failed", exc_info=exc, extra={"event": "unexpected"})
        detail = f"{type(exc).__name__}; the log has the details"
        _answer(client, "500 Internal Server Error", "InternalError", detail, None)

    # The steps of a connection, in this order.

    def _receive(self, conn: _Connection) -> None:
        if not conn.sock.receive() and not conn.sock.request.is_whole:
            self._drop(conn)
            return
        self._proceed(conn)

    def _proceed(self, conn: _Connection) -> None:
        """Serves a request that is whole, refuses one that cannot be received."""
        request = conn.sock.request
        if request.is_whole:
            self._serve(conn)
        elif request.is_head_too_long:
            is_line = request.is_line_too_long
            status = "414 URI Too Long" if is_line else "431 Request Header Fields Too Large"
            field = "path" if is_line else "headers"
            detail = f"{field}: expected a request head of at most {HEAD_BYTES} bytes"
            self._refuse(conn, status, "RequestError", detail, field)
        else:
            if request.expects_continue:
                request.expects_continue = False
                conn.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                conn.sock.deliver()  # bytes that the socket does not take now go with the answer
            if request.size > SMALL_BYTES:
                self._make_room()

    def _serve(self, conn: _Connection) -> None:
        conn.is_served = True
        if conn.sock.is_client_gone:
            self._ignore(conn)
        else:
            self._wait(conn, selectors.EVENT_READ, self._watch)
        self.enqueue_req(conn)

    def _watch(self, conn: _Connection) -> None:
        if not conn.sock.watch():
            self._ignore(conn)

    def _send(self, conn: _Connection) -> None:
        try:
            self._deliver(conn)
        except OSError:
            self._drop(conn)
            return
        if conn in self._connections and conn.next is not None and conn.next == self._deliver:
            conn.until = conn.sock.answer_deadline()

    def _deliver(self, conn: _Connection) -> None:
        if not conn.sock.deliver():
            self._wait(conn, selectors.EVENT_WRITE, self._deliver)
        elif conn.is_kept and not conn.sock.is_client_gone:
            conn.sock.renew(conn.parser.unreader.take_buffered())
            self._wait(conn, selectors.EVENT_READ, self._receive)
            self._proceed(conn)
        else:
            # Closed at once, a connection that holds unread bytes takes the answer with it.
            conn.sock.hang_up()
            conn.sock.request.forget()
            conn.until = time.monotonic() + _LINGER_S
            self._wait(conn, selectors.EVENT_READ, self._discard)

    def _discard(self, conn: _Connection) -> None:
        if not conn.sock.discard():
            self._drop(conn)

    # Limits.

    def _deadline(self, conn: _Connection) -> float:
        if conn.next == self._receive:
            deadline = conn.sock.request.deadline(conn.sock.ready_since, self.cfg.keepalive)
            return min(deadline, self._latest)
        return conn.until

    def _time_out(self, conn: _Connection) -> None:
        request = conn.sock.request
        if conn.next == self._receive and request.has_begun:
            field = request.waits_for
            detail = f"{field}: expected the whole request in less time"
            self._refuse(conn, "408 Request Timeout", "RequestTimeoutError", detail, field)
        else:
            self._drop(conn)

    def _make_room(self) -> None:
        """Refuses the oldest large request, while all requests hold too much memory."""
        held = sum(conn.sock.request.size for conn in self._connections)
        if held <= _BODIES_AT_ONCE * self.limits.max_body_bytes:
            return
        large = [
            conn
            for conn in self._connections
            if conn.next == self._receive and conn.sock.request.size > SMALL_BYTES
        ]
        if large:
            conn = min(large, key=lambda conn: conn.sock.request.began)
            detail = "body: too many large requests arrive at once; try again"
            self._refuse(conn, "503 Service Unavailable", "BusyError", detail, "body")

    def _drop_oldest(self) -> bool:
        """Closes the connection that waits longest for a whole request.

        Returns whether there was such a connection.
        """
        waiting = [conn for conn in self._connections if conn.next == self._receive]
        if not waiting:
            return False
        self._drop(min(waiting, key=lambda conn: conn.sock.ready_since))
        return True

    def _refuse(self, conn: _Connection, status: str, name: str, detail: str, field: str) -> None:
        _refuse(conn.sock, status, name, detail, field)
        conn.is_kept = False
        self._send(conn)

    # The poller.

    def _wait(self, conn: _Connection, event: int, then: Callable[[_Connection], None]) -> None:
        """Has the loop call `then` whenever the socket is ready."""
        is_watched = conn.next is not None
        conn.next = then
        if is_watched:
            self.poller.modify(conn.sock, event, lambda _: self._go_on(conn))
        else:
            self.poller.register(conn.sock, event, lambda _: self._go_on(conn))

    def _go_on(self, conn: _Connection) -> None:
        try:
            if conn.next is not None:
                conn.next(conn)
        except OSError:  # the client broke the connection
            if conn.is_served:
                conn.sock.is_client_gone = True
                self._ignore(conn)
            else:
                self._drop(conn)

    def _ignore(self, conn: _Connection) -> None:
        """Stops watching a socket."""
        if conn.next is not None:
            self.poller.unregister(conn.sock)
            conn.next = None

    def _drop(self, conn: _Connection) -> None:
        if conn in self._connections:
            del self._connections[conn]
            self._ignore(conn)
            conn.sock.close()
            self.nr_conns -= 1


def worker_with_limits(limits: ReceiveLimits) -> type[HttpWorker]:
    """Returns a worker class with the limits of a deployment: gunicorn takes a class."""
    return type(HttpWorker.__name__, (HttpWorker,), {"limits": limits})


def _refuse(client: ClientSocket, status: str, name: str, detail: str, field: str) -> None:
    _log.info("request refused: %s", detail, extra={"event": "refused"})
    _answer(client, status, name, detail, field)


def _answer(client: ClientSocket, status: str, name: str, detail: str, field: str | None) -> None:
    number = new_request_id(None)
    body = encode_failure(name, detail, field, number)
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        f"X-Request-ID: {number}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    client.sendall(head.encode() + body)
