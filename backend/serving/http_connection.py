"""One client's connection, as a request thread sees it: a socket on which nothing ever waits.

What the thread reads has arrived before the thread began; what it writes leaves after it ended. The
loop of `http_worker` moves both over the network.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Mapping

from backend.serving.http_request import BYTES_PER_S, Arrival, ArrivalLimits

ANSWER_S = 20.0
"""Longest time to take an answer, plus one second per BYTES_PER_S bytes."""
_RECEIVED_AT_ONCE = 256 * 1024
_MOST_AHEAD = 64 * 1024  # bytes of requests that a client sends before it hears the answer


class Line:
    """The socket of one client; stands for it in gunicorn's parser and response.

    Args:
        sock: the accepted connection.
        limits: of its requests.
    """

    def __init__(self, sock: socket.socket, limits: ArrivalLimits) -> None:
        sock.setblocking(False)
        self._sock, self._limits = sock, limits
        self._leaving: deque[memoryview] = deque()
        self._ahead = b""
        self.arrival = Arrival(limits)
        self.ready_since = time.monotonic()
        """When it became ready for the request that arrives."""
        self.has_left = False
        """Whether the client has closed its side."""

    # What the loop calls.

    def receive(self) -> bool:
        """Reads what the client sent of a request; returns whether it may send more."""
        data = self._read(_RECEIVED_AT_ONCE)
        if data:
            self.arrival.feed(data, time.monotonic())
        elif data is not None:
            self.has_left = True
            self.arrival.end()
        return not self.has_left

    def watch(self) -> bool:
        """Reads what a client sends while it is served; returns whether to go on watching."""
        data = self._read(_MOST_AHEAD)
        if data:
            self._ahead += data
            return len(self._ahead) < _MOST_AHEAD
        self.has_left = data is not None or self.has_left
        return not self.has_left

    def discard(self) -> bool:
        """Drops what the client still sends; returns whether it may send more."""
        return self._read(_RECEIVED_AT_ONCE) != b""

    def deliver(self) -> bool:
        """Sends as much of the answer as the client takes; returns whether all of it is gone."""
        while self._leaving:
            piece = self._leaving[0]
            try:
                sent = self._sock.send(piece)
            except (BlockingIOError, InterruptedError):
                return False
            if sent < len(piece):
                self._leaving[0] = piece[sent:]
                return False
            self._leaving.popleft()
        return True

    def answer_deadline(self) -> float:
        """Returns until when the client has to take what waits for it."""
        waiting = sum(len(piece) for piece in self._leaving)
        return time.monotonic() + ANSWER_S + waiting / BYTES_PER_S

    def renew(self, unread: bytes) -> None:
        """Makes the connection ready for the next request.

        Args:
            unread: what the parser has read of it already.
        """
        begun = unread + self.arrival.take_all() + self._ahead
        self._ahead = b""
        self.arrival = Arrival(self._limits)
        self.ready_since = time.monotonic()
        self.arrival.feed(begun, self.ready_since)

    def hang_up(self) -> None:
        """Says that no more is sent; what the client still sends is to be discarded."""
        self._sock.shutdown(socket.SHUT_WR)

    # What a request thread calls: the part of a socket that gunicorn uses.

    def recv(self, size: int) -> bytes:
        """Returns what has arrived, b"" when there is no more."""
        return self.arrival.take(size)

    def sendall(self, data: bytes) -> None:
        """Keeps data for the client."""
        if data:
            self._leaving.append(memoryview(bytes(data)))

    def send(self, data: bytes) -> int:
        """Keeps data for the client; returns how many bytes that are."""
        self.sendall(data)
        return len(data)

    def fileno(self) -> int:
        """Returns the number of the connection."""
        return self._sock.fileno()

    def getsockname(self) -> object:
        """Returns this side's address."""
        return self._sock.getsockname()

    def setblocking(self, flag: bool) -> None:
        """Does nothing: it is always ready."""

    def settimeout(self, seconds: float | None) -> None:
        """Does nothing: it is always ready."""

    def gettimeout(self) -> float | None:
        """Returns None: nothing waits."""
        return None

    def close(self) -> None:
        """Closes the connection."""
        self._sock.close()

    def _read(self, size: int) -> bytes | None:
        """Bytes of the client, b"" when it closed its side, None when it sent nothing yet."""
        try:
            return self._sock.recv(size)
        except (BlockingIOError, InterruptedError):
            return None


def left_of(environ: Mapping[str, object]) -> Callable[[], bool]:
    """Returns what tells whether the client of a WSGI request has gone; under other servers, no."""
    line = environ.get("gunicorn.socket")
    return (lambda: line.has_left) if isinstance(line, Line) else (lambda: False)
