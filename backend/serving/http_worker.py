"""gunicorn's threaded worker, for clients that cannot be understood and clients that fall silent.

What is refused before our app sees a request is answered like everything else: 4xx, JSON, with the
field and a request id. Does not know the app.
"""

from __future__ import annotations

import logging
import socket
import struct

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
from backend.serving.logs import new_request_id

_log = logging.getLogger(__name__)

SILENCE_S = 10

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


class HttpWorker(ThreadWorker):  # type: ignore[misc]
    """Gives a thread back when its client says nothing, or reads nothing, for SILENCE_S seconds."""

    def handle(self, conn: TConn) -> object:
        """Serves one connection."""
        # Half-open connections would hold their threads for ever; the kernel's own timeouts hold
        # although gunicorn makes the socket blocking again.
        limit = struct.pack("ll", SILENCE_S, 0)
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        return super().handle(conn)

    def handle_error(
        self, req: object, client: socket.socket, addr: object, exc: Exception
    ) -> None:
        """Answers a request that never reached the app, or broke outside it."""
        for kind, status, field in _REFUSALS:
            if isinstance(exc, kind):
                detail = f"{field}: {type(exc).__name__}, expected an HTTP/1.1 request"
                _log.info("request refused: %s", detail, extra={"event": "refused"})
                _answer(client, status, "RequestError", detail, field)
                return
        _log.error("request failed", exc_info=exc, extra={"event": "unexpected"})
        detail = f"{type(exc).__name__}; the log has the details"
        _answer(client, "500 Internal Server Error", "InternalError", detail, None)


def _answer(client: socket.socket, status: str, name: str, detail: str, field: str | None) -> None:
    number = new_request_id(None)
    body = encode_failure(name, detail, field, number)
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        f"X-Request-ID: {number}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        client.sendall(head.encode() + body)
    except OSError:
        _log.debug("the client left before it was refused")
