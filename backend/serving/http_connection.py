"""One client's connection, as a request thread sees it: a socket on which nothing ever waits.

The thread reads bytes that arrived before it began; the bytes it writes are sent after it ended.
The loop of `http_worker` moves both over the network.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Mapping

from backend.serving.http_request import BYTES_PER_S, IncomingRequest, ReceiveLimits

ANSWER_S = 20.0
"""Longest time to take an answer, plus one second per BYTES_PER_S bytes."""
_RECEIVED_AT_ONCE = 256 * 1024
_MOST_EARLY = 64 * 1024  # bytes of further requests that a client sends before it has the answer


class ClientSocket:
    """The socket of one client, with the methods that gunicorn's parser and response call.

    Args:
        sock: the accepted connection.
        limits: of its requests.
    """

    def __init__(self, sock: socket.socket, limits: ReceiveLimits) -> None:
        sock.setblocking(False)
        self._sock, self._limits = sock, limits
        self._outgoing: deque[memoryview] = deque()
        self._early = b""
        self.request = IncomingRequest(limits)
        self.ready_since = time.monotonic()
        """When the connection became ready for the present request."""
        self.is_client_gone = False
        """Whether the client has closed its side."""

    # The loop of `http_worker` calls these.

    def receive(self) -> bool:
        """Reads bytes of a request; returns whether the client may send more."""
        data = self._read(_RECEIVED_AT_ONCE)
        if data:
            self.request.feed(data, time.monotonic())
        elif data is not None:
            self.is_client_gone = True
            self.request.end()
        return not self.is_client_gone

    def watch(self) -> bool:
        """Reads what the client sends while its request is served.

        Returns whether to go on watching the socket.
        """
        data = self._read(_MOST_EARLY)
        if data:
            self._early += data
            return len(self._early) < _MOST_EARLY
        self.is_client_gone = data is not None or self.is_client_gone
        return not self.is_client_gone

    def discard(self) -> bool:
        """Reads bytes and drops them; returns whether the client may send more."""
        return self._read(_RECEIVED_AT_ONCE) != b""

    def deliver(self) -> bool:
        """Sends as much of the answer as the socket takes; returns whether all of it is sent."""
        while self._outgoing:
            piece = self._outgoing[0]
            try:
                sent = self._sock.send(piece)
            except (BlockingIOError, InterruptedError):
                return False
            if sent < len(piece):
                self._outgoing[0] = piece[sent:]
                return False
            self._outgoing.popleft()
        return True

    def answer_deadline(self) -> float:
        """Returns the time until which the client has to take its answer."""
        waiting = sum(len(piece) for piece in self._outgoing)
        return time.monotonic() + ANSWER_S + waiting / BYTES_PER_S

    def renew(self, unread: bytes) -> None:
        """Makes the connection ready for the next request.

        Args:
            unread: bytes of the next request that the parser has read already.
        """
        begun = unread + self.request.take_all() + self._early
        self._early = b""
        self.request = IncomingRequest(self._limits)
        self.ready_since = time.monotonic()
        self.request.feed(begun, self.ready_since)

    def hang_up(self) -> None:
        """Closes the sending side; what the client still sends is to be discarded."""
        self._sock.shutdown(socket.SHUT_WR)

    # A request thread calls these: the part of a socket that gunicorn uses.

    def recv(self, size: int) -> bytes:
        """Returns up to `size` bytes that have arrived, b"" when there are no more."""
        return self.request.take(size)

    def sendall(self, data: bytes) -> None:
        """Keeps data for the client."""
        if data:
            self._outgoing.append(memoryview(bytes(data)))

    def send(self, data: bytes) -> int:
        """Keeps data for the client; returns its length."""
        self.sendall(data)
        return len(data)

    def fileno(self) -> int:
        """Returns the number of the connection."""
        return self._sock.fileno()

    def getsockname(self) -> object:
        """Returns this side's address."""
        return self._sock.getsockname()

    def setblocking(self, flag: bool) -> None:
        """Does nothing: the socket is always ready."""

    def settimeout(self, seconds: float | None) -> None:
        """Does nothing: the socket is always ready."""

    def gettimeout(self) -> float | None:
        """Returns None: nothing waits."""
        return None

    def close(self) -> None:
        """Closes the connection."""
        self._sock.close()

    def _read(self, size: int) -> bytes | None:
        """Returns received bytes, b"" when the client closed its side, None if none have come."""
        try:
            return self._sock.recv(size)
        except (BlockingIOError, InterruptedError):
            return None


def client_disconnected(environ: Mapping[str, object]) -> Callable[[], bool]:
    """Returns a function that tells whether the client of a WSGI request has disconnected.

    Under another server than ours it always answers False.
    """
    client_socket = environ.get("gunicorn.socket")
    if not isinstance(client_socket, ClientSocket):
        return lambda: False
    return lambda: client_socket.is_client_gone
