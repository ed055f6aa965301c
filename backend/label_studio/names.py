"""Under which addresses one Label Studio is known: listed ones, and what it says of itself.

A task may hold any of them; files are always asked for at the one address the backend was given, so
that the token goes nowhere else, whoever announces what. What was announced is kept in a file, for
the trainer's process.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from backend.errors import ForbiddenAddressError
from backend.label_studio.address import split_origin

_log = logging.getLogger(__name__)
_MOST_ANNOUNCED = 16  # the newest; who may call /setup must not fill the disk
_MOST_LETTERS = 300
_PLAIN_PORTS = (80, 443)  # one name: whether a proxy speaks TLS is its own matter

_Place = tuple[str, int]


class StudioNames:
    """Addresses of one Label Studio.

    Args:
        listed: "name", "name:port" or a whole address, which may have a path.
        file: where announced addresses are kept, or None to forget them.
    """

    def __init__(self, listed: Sequence[str] = (), *, file: Path | None = None) -> None:
        whole = (name if "://" in name else f"http://{name}" for name in listed)
        self._listed = dict(map(_place_and_prefix, whole))
        self._file = file
        self._announced: tuple[str, ...] = ()
        self._found: dict[_Place, str] = {}
        self._read_at: int | None = None
        self._lock = threading.Lock()

    def announce(self, address: str | None) -> None:
        """Takes note of an address that Label Studio gives itself; anything else is ignored."""
        address = (address or "").rstrip("/")
        if not address or len(address) > _MOST_LETTERS or self._is_known(address):
            return
        with self._lock:
            self._read()
            others = (one for one in self._announced if one != address)
            self._announced = (address, *others)[:_MOST_ANNOUNCED]
            self._found = dict(map(_place_and_prefix, self._announced))
            self._write()

    def prefix_of(self, url: str) -> str | None:
        """The path below which Label Studio lies at the host of a URL; None for other hosts."""
        try:
            place, _ = _place_and_prefix(url)
        except ForbiddenAddressError:
            return None
        if place in self._listed:
            return self._listed[place]
        with self._lock:
            if place not in self._found:
                self._read()
            return self._found.get(place)

    def _is_known(self, address: str) -> bool:
        try:
            place, prefix = _place_and_prefix(address)
        except ForbiddenAddressError:
            return True  # no address at all
        with self._lock:
            self._read()
            return self._found.get(place) == prefix

    def _read(self) -> None:
        """What other processes heard, if the file changed."""
        if self._file is None:
            return
        with suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError, ForbiddenAddressError):
            changed = self._file.stat().st_mtime_ns
            if changed != self._read_at:
                kept = msgspec.json.decode(self._file.read_bytes(), type=list[str])
                self._announced = tuple(kept[:_MOST_ANNOUNCED])
                self._found = dict(map(_place_and_prefix, self._announced))
                self._read_at = changed

    def _write(self) -> None:
        if self._file is None:
            return
        staged = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        try:
            staged.write_bytes(msgspec.json.encode(self._announced))
            staged.replace(self._file)
            self._read_at = self._file.stat().st_mtime_ns
        except OSError as error:
            _log.warning("Label Studio's address is not kept: %s", error)


def _place_and_prefix(address: str) -> tuple[_Place, str]:
    _, host, port = split_origin(address)
    return (host, 80 if port in _PLAIN_PORTS else port), urlsplit(address).path.rstrip("/")
