"""The addresses of one Label Studio: those in the settings, and those it announces itself.

A task may hold any of them. Files are always requested from the one address in the settings, so an
announced address never receives the token. Announced addresses are stored in a file, for the
process of the trainer.
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

from backend.decoding import read_json
from backend.errors import ForbiddenAddressError
from backend.label_studio.address import split_origin

_log = logging.getLogger(__name__)
_MOST_ANNOUNCED = 16  # the newest ones; callers of /setup must not fill the disk
_MOST_LETTERS = 300
_PLAIN_PORTS = (80, 443)  # count as one port: a proxy may add or remove TLS

_Place = tuple[str, int]


class StudioNames:
    """Addresses of one Label Studio.

    Args:
        listed: "name", "name:port" or a whole address, which may have a path.
        file: stores announced addresses, or None to store none.
    """

    def __init__(self, listed: Sequence[str] = (), *, file: Path | None = None) -> None:
        whole = (name if "://" in name else f"http://{name}" for name in listed)
        self._listed = dict(map(_place_and_prefix, whole))
        self._file = file
        self._announced: tuple[str, ...] = ()
        self._prefix_of_announced: dict[_Place, str] = {}
        self._read_at: int | None = None
        self._lock = threading.Lock()

    def announce(self, address: str | None) -> None:
        """Adds an address that Label Studio announces; other texts are ignored."""
        address = (address or "").rstrip("/")
        if not address or len(address) > _MOST_LETTERS or self._is_known(address):
            return
        with self._lock:
            self._read()
            others = (known for known in self._announced if known != address)
            self._announced = (address, *others)[:_MOST_ANNOUNCED]
            self._prefix_of_announced = dict(map(_place_and_prefix, self._announced))
            self._write()

    def prefix_of(self, url: str) -> str | None:
        """Returns Label Studio's path prefix at the host of a URL; None for other hosts."""
        try:
            place, _ = _place_and_prefix(url)
        except ForbiddenAddressError:
            return None
        if place in self._listed:
            return self._listed[place]
        with self._lock:
            if place not in self._prefix_of_announced:
                self._read()
            return self._prefix_of_announced.get(place)

    def _is_known(self, address: str) -> bool:
        try:
            place, prefix = _place_and_prefix(address)
        except ForbiddenAddressError:
            return True  # not an address
        with self._lock:
            self._read()
            return self._prefix_of_announced.get(place) == prefix

    def _read(self) -> None:
        """Reads the addresses that other processes stored, if the file changed."""
        if self._file is None:
            return
        with suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError, ForbiddenAddressError):
            changed = self._file.stat().st_mtime_ns
            if changed != self._read_at:
                kept = read_json(self._file.read_bytes(), list[str])
                self._announced = tuple(kept[:_MOST_ANNOUNCED])
                self._prefix_of_announced = dict(map(_place_and_prefix, self._announced))
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
