"""One request as it arrives: how much of it is there, and until when the rest must come.

Reads only as much of HTTP as is needed to find the end of a request; the parser that reads the
request afterwards finds its errors. Pure: bytes and times come in, nothing waits.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

HEAD_S = 10.0
"""Longest time from the first byte of a request to the end of its headers."""
BODY_S = 20.0
"""Longest time from there to the end of the body, plus one second per BYTES_PER_S bytes."""
BYTES_PER_S = 256 * 1024
HEAD_BYTES = 32 * 1024
"""Longest request line and headers."""

_END = b"\r\n\r\n"
_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
_SIZE_LINE_BYTES = 8192


@dataclass(frozen=True)
class ReceiveLimits:
    """What is received of a request before the app sees it.

    Attributes:
        max_body_bytes: a longer body is not received; the app refuses the request.
        may_send_body: whether a request with this Authorization header, or None, may send a body.
            If not, the body is not received, and the app refuses the request.
    """

    max_body_bytes: int = 64 * 1024 * 1024
    may_send_body: Callable[[str | None], bool] = lambda _: True


class IncomingRequest:
    """The bytes of one request, and bytes of further requests that came with them."""

    def __init__(self, limits: ReceiveLimits) -> None:
        self._limits = limits
        self._pieces: deque[memoryview] = deque()
        self._head: bytearray | None = bytearray()  # None once the headers have ended
        self._head_ended = 0.0
        self._missing = 0  # bytes of a body of known length
        self._chunks: _ChunkedBody | None = None
        self.began = math.inf
        """When its first byte arrived."""
        self.size = 0
        """Bytes that have arrived."""
        self.is_whole = False
        """Whether the request can be served: all of it that is received has arrived."""
        self.is_truncated = False
        """Whether part of the body is not received: the connection cannot be used again."""
        self.expects_continue = False
        """Whether the client waits for 100 Continue before it sends the body."""

    @property
    def has_begun(self) -> bool:
        """Whether any byte has arrived."""
        return bool(self.size)

    @property
    def is_head_too_long(self) -> bool:
        """Whether the headers exceed HEAD_BYTES and have not ended."""
        return self._head is not None and len(self._head) > HEAD_BYTES

    @property
    def waits_for(self) -> str:
        """The part that has not arrived yet: headers or body."""
        return "headers" if self._head is not None else "body"

    @property
    def is_line_too_long(self) -> bool:
        """Whether not even the request line has ended within HEAD_BYTES."""
        return self.is_head_too_long and b"\r\n" not in (self._head or b"")

    def deadline(self, idle_since: float, idle_s: float) -> float:
        """Returns the time until which more must arrive.

        Args:
            idle_since: when the connection became ready for this request.
            idle_s: how long a connection may stay without a request.
        """
        if not self.size:
            return idle_since + idle_s
        if self._head is not None:
            return self.began + HEAD_S
        return self._head_ended + BODY_S + self.size / BYTES_PER_S

    def feed(self, data: bytes, now: float) -> None:
        """Adds received bytes.

        Args:
            data: any part of a request, or of several.
            now: when they came.
        """
        if not data:
            return
        if not self.size:
            self.began = now
        self._pieces.append(memoryview(data))
        self.size += len(data)
        if self.is_whole:
            return
        if self._head is not None:
            self._feed_head(data, now)
        else:
            self._feed_body(data)

    def end(self) -> None:
        """Called when the client sends nothing more."""
        if not self.is_whole and self._head is None:
            self._truncate()

    def take(self, size: int) -> bytes:
        """Removes and returns up to `size` of the bytes, b"" when none are left."""
        if not self._pieces:
            return b""
        piece = self._pieces.popleft()
        if len(piece) > size:
            self._pieces.appendleft(piece[size:])
        return bytes(piece[:size])

    def take_all(self) -> bytes:
        """Removes and returns all bytes."""
        rest = b"".join(self._pieces)
        self._pieces.clear()
        return rest

    def forget(self) -> None:
        """Frees the memory of a request that nobody will read."""
        self._pieces.clear()
        self.size = 0

    def _feed_head(self, data: bytes, now: float) -> None:
        head = self._head
        assert head is not None
        searched = max(0, len(head) - len(_END) + 1)
        head += data
        at = head.find(_END, searched)
        if at < 0:
            # The parser refuses line ends without a carriage return; such a head never ends here.
            if _BARE_LINE_FEED.search(head, searched):
                self._truncate()
            return
        self._head, self._head_ended = None, now
        body = bytes(head[at + len(_END) :])
        self._read_framing(bytes(head[: at + 2]))
        if not self.is_whole:
            self._feed_body(body)

    def _read_framing(self, head: bytes) -> None:
        """Reads from the headers how the body ends."""
        coding = b",".join(_values(head, b"transfer-encoding")).lower()
        lengths = _values(head, b"content-length")
        if b"chunked" in coding:
            self._chunks = _ChunkedBody()
        elif len(lengths) == 1 and re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
            self._missing = int(lengths[0])
        has_body = self._chunks is not None or self._missing > 0
        if not has_body:
            self.is_whole = True
            return
        given = _values(head, b"authorization")
        authorization = given[0].decode("latin-1") if given else None
        is_welcome = self._limits.may_send_body(authorization)
        if not is_welcome or self._missing > self._limits.max_body_bytes:
            self._truncate()
            return
        self.expects_continue = _values(head, b"expect")[:1] == [b"100-continue"]

    def _feed_body(self, data: bytes) -> None:
        if self._chunks is None:
            self._missing -= len(data)
            self.is_whole = self._missing <= 0
            return
        self._chunks.feed(data)
        if self._chunks.has_ended:
            self.is_whole = True
        elif self._chunks.is_broken or self._chunks.size > self._limits.max_body_bytes:
            self._truncate()

    def _truncate(self) -> None:
        self.is_whole = self.is_truncated = True


class _ChunkedBody:
    """Finds the end of a chunked body (RFC 9112, 7.1)."""

    def __init__(self) -> None:
        self.size = 0  # bytes of the body
        self.has_ended = self.is_broken = False
        self._skip = 0  # bytes of a chunk and its line end that are still to come
        self._is_trailer = False
        self._line = b""

    def feed(self, data: bytes) -> None:
        at = 0
        while at < len(data) and not (self.has_ended or self.is_broken):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            end = data.find(b"\n", at)
            self._line += data[at : len(data) if end < 0 else end]
            if len(self._line) > _SIZE_LINE_BYTES:
                self.is_broken = True
            if end < 0:
                return
            at = end + 1
            self._end_line()

    def _end_line(self) -> None:
        line, self._line = self._line.rstrip(b"\r"), b""
        if self._is_trailer:
            self.has_ended = not line
            return
        digits = line.split(b";")[0].strip()
        if not re.fullmatch(rb"[0-9a-fA-F]{1,15}", digits):
            self.is_broken = True
            return
        length = int(digits, 16)
        self._is_trailer = length == 0
        self._skip = length + 2 if length else 0
        self.size += length


def _values(head: bytes, name: bytes) -> list[bytes]:
    """Every value of a header; `head` ends with the line end of its last line."""
    return [
        value.strip(b" \t")
        for value in re.findall(rb"(?i)\r\n" + name + rb"[ \t]*:([^\r\n]*)(?=\r\n)", head)
    ]
