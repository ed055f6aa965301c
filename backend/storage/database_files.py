"""Proof that the files of an open SQLite database are where, and what, the next start will open.

An open file that was deleted or replaced takes every commit, and nobody ever reads it again. Asked
before and after every commit, so it only looks at names and headers; `PRAGMA quick_check` reads the
rest from time to time.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from backend.errors import StoreError

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 20  # magic, page size, and the two versions that say whether there is a log
_LOG_HEADER = struct.Struct(">8I")
_LOG_MAGIC = 0x377F0682  # the last bit says how its checksums are counted
_WAL_VERSION = b"\x02\x02"
_Identity = tuple[int, int]


class DatabaseFiles:
    """The database file and its write-ahead log. Open it before the first connection.

    Args:
        path: the database file, which exists.

    Raises:
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._log_path = path, path.with_name(path.name + "-wal")
        # Never closed before the connections: closing any descriptor of a file drops the locks
        # that this process has on it.
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._identity = _identity_of(os.fstat(self._file))
        self._header = os.pread(self._file, _HEADER_BYTES, 0)
        self._log: _Identity | None = None

    def forget_log(self) -> None:
        """Called when a connection of the writer begins or ends: the next may have a new log."""
        self._log = None

    def check(self) -> None:
        """Raises StoreError unless both files are there, in their places, with their headers."""
        self._check_place(self._path, self._identity)
        header = os.pread(self._file, _HEADER_BYTES, 0)
        if not header.startswith(_MAGIC) or header != self._header:
            raise StoreError(_lost(self._path, "was overwritten"))
        if header.endswith(_WAL_VERSION):
            self._check_log()

    def close(self) -> None:
        """Closes the file, after all connections to it."""
        os.close(self._file)

    def _check_log(self) -> None:
        if self._log is None:
            # A connection that has written nothing yet may have no log.
            if self._log_path.exists():
                self._log = _identity_of(self._log_path.stat())
            return
        self._check_place(self._log_path, self._log)
        try:
            content = _head(self._log_path)
        except OSError as error:
            raise StoreError(_lost(self._log_path, f"cannot be read ({error})")) from error
        # An empty one was just checkpointed.
        if content and not _is_log_header(content):
            raise StoreError(_lost(self._log_path, "was overwritten"))

    @staticmethod
    def _check_place(path: Path, known: _Identity) -> None:
        try:
            found = _identity_of(path.stat())
        except OSError:
            raise StoreError(_lost(path, "was deleted or moved")) from None
        if found != known:
            raise StoreError(_lost(path, "was replaced by another file"))


def _lost(path: Path, what: str) -> str:
    return (
        f"{path} {what} while it was open, so nothing is acknowledged: stop the server, put the "
        "file or a backup back in its place, and start it again"
    )


def _identity_of(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino


def _head(path: Path) -> bytes:
    with path.open("rb", buffering=0) as log:  # SQLite keeps no locks on this one
        return log.read(_LOG_HEADER.size) or b""


def _is_log_header(content: bytes) -> bool:
    """Whether recovery would accept a log that begins so; a header that fails ends it at once."""
    if len(content) < _LOG_HEADER.size:
        return False
    magic, *_, first, second = _LOG_HEADER.unpack(content)
    if magic & ~1 != _LOG_MAGIC:
        return False
    order = ">" if magic & 1 else "<"
    one = two = 0
    counted = struct.unpack(f"{order}6I", content[:24])
    for left, right in zip(counted[::2], counted[1::2], strict=True):
        one = (one + left + two) & 0xFFFFFFFF
        two = (two + right + one) & 0xFFFFFFFF
    return (one, two) == (first, second)
