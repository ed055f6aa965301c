"""Reads JSON and MessagePack into types, in any number of threads.

msgspec looks a type up when it is read for the first time. Where two threads do that at once, one
sees it half looked up, and the process may end with SIGSEGV (seen with msgspec 0.22 in the first
requests of a server). So all types are looked up here, one after another, and remembered.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
_lock = threading.Lock()  # guards additions to the two tables
_json: dict[Any, msgspec.json.Decoder[Any]] = {}
_msgpack: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def read_json(body: bytes | str | msgspec.Raw, kind: type[T]) -> T:
    """Returns the value of a JSON text.

    Args:
        body: the text.
        kind: what it is expected to be.

    Raises:
        msgspec.MsgspecError: it is something else, or no JSON.
        RecursionError: it is nested too deep.
        UnicodeDecodeError: it is not UTF-8.
    """
    value: T = _json_decoder(kind).decode(body)
    return value


def read_msgpack(body: bytes | memoryview, kind: type[T]) -> T:
    """Returns the value of a MessagePack message; `kind` is what it is expected to be.

    Raises:
        msgspec.MsgspecError: it is something else, or damaged.
    """
    decoder = _msgpack.get(kind)
    if decoder is None:
        with _lock:
            decoder = _msgpack.setdefault(kind, msgspec.msgpack.Decoder(kind))
    value: T = decoder.decode(body)
    return value


def convert(value: object, kind: type[T]) -> T:
    """Returns decoded JSON as a type.

    Raises:
        msgspec.ValidationError: it is something else.
    """
    _json_decoder(kind)  # looks the type up
    return msgspec.convert(value, kind)


def _json_decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    decoder = _json.get(kind)
    if decoder is None:
        with _lock:
            decoder = _json.setdefault(kind, msgspec.json.Decoder(kind))
    return decoder
