"""Whether what is committed now will be found by the next start.

An open SQLite file that was deleted or replaced accepts every commit, and no later start reads it.
The writer asks `DatabaseFiles` before and after every commit, so it only looks at names and
headers; `DatabaseHealth` reads the whole file from time to time with `PRAGMA quick_check`.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Engine, event
from sqlalchemy.exc import SQLAlchemyError

from backend.errors import BackendError, StoreError
from backend.storage.database import read_whole
from backend.storage.writer import WriterThread

_log = logging.getLogger(__name__)
_RETRY_S = 10.0
_IDLE_SHARE = 50  # the pause between two full reads is at least this multiple of a read
_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 20  # magic, page size, and the two versions that tell whether there is a log
_LOG_HEADER = struct.Struct(">8I")
_LOG_MAGIC = 0x377F0682  # the last bit tells the byte order of the checksums
_WAL_VERSION = b"\x02\x02"
_Identity = tuple[int, int]


class DatabaseFiles:
    """The database file and its write-ahead log. Open it before the first connection.

    Args:
        path: the database file, which exists.

    Raises:
        OSError: the file cannot be read.
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
        # An empty log was just checkpointed.
        if content and not _is_log_header(content):
            raise StoreError(_lost(self._log_path, "was overwritten"))

    @staticmethod
    def _check_place(path: Path, known: _Identity) -> None:
        try:
            identity = _identity_of(path.stat())
        except OSError:
            raise StoreError(_lost(path, "was deleted or moved")) from None
        if identity != known:
            raise StoreError(_lost(path, "was replaced by another file"))


def watch_files(writing: Engine) -> DatabaseFiles | None:
    """Opens the files of the writer's database; None unless it is a SQLite file."""
    place = writing.url.database
    if writing.dialect.name != "sqlite" or not place or not Path(place).is_file():
        return None
    files = DatabaseFiles(Path(place).absolute())
    for change in ("connect", "close"):
        # SQLite removes the log with the last connection, and makes another.
        event.listen(writing, change, lambda _raw, _record: files.forget_log())
    return files


class DatabaseHealth:
    """Checks a database, on request and in a thread of its own.

    Args:
        reading: engine of the readers.
        writer: the writer thread of the same database.
        files: its files, None unless it is a SQLite file.
        check_every_s: seconds between two full reads; None starts no thread.
    """

    def __init__(
        self,
        reading: Engine,
        writer: WriterThread,
        files: DatabaseFiles | None,
        *,
        check_every_s: float | None,
    ) -> None:
        self._reading, self._writer, self._files = reading, writer, files
        self._damage: str | None = None
        self._is_closed = threading.Event()
        self._thread = threading.Thread(
            target=self._check_again, args=(check_every_s,), name="store-check", daemon=True
        )
        if check_every_s is not None:
            self._thread.start()

    def check(self) -> None:
        """Raises StoreError if what is written now would not be found by the next start.

        Quick: looks at names and headers of files, and at the results of the last full read and of
        the last commit.
        """
        self.check_files()
        if self._damage is not None:
            raise StoreError(self._damage)
        self._writer.check()

    def check_files(self) -> None:
        """Raises StoreError if the files of the database are not where they were opened."""
        if self._files is not None:
            self._files.check()

    def examine(self) -> None:
        """Reads a whole SQLite file, and notes for `check` whether it is damaged."""
        if self._reading.dialect.name != "sqlite":
            return
        place = self._reading.url.database
        try:
            self.check_files()
            verdict = read_whole(self._reading.url)
        except StoreError:
            return  # `check` raises it as well
        except SQLAlchemyError as error:
            if "locked" in str(error):
                return  # read again later
            verdict = type(error).__name__
        self._damage = None
        if verdict != "ok":
            self._damage = f"{place} is damaged ({verdict}); restore a backup or move it away"
            _log.error("%s", self._damage, extra={"event": "store_damaged"})

    def stop(self) -> None:
        """Asks the thread to end."""
        self._is_closed.set()

    def join(self) -> None:
        """Waits for the end of the thread."""
        if self._thread.is_alive():
            self._thread.join()

    def close_files(self) -> None:
        """Closes the files, after all connections to them."""
        if self._files is not None:
            self._files.close()
            self._files = None

    def _check_again(self, every_s: float) -> None:
        """Examines the file from time to time, and retries the writer after a failure."""
        next_s = time.monotonic() + every_s
        while not self._is_closed.wait(min(every_s, _RETRY_S)):
            try:
                self._writer.check()
            except StoreError:
                with suppress(BackendError):
                    self._writer.run(lambda _: None, timeout_s=_RETRY_S)
            if time.monotonic() >= next_s:
                began = time.monotonic()
                self.examine()
                # A large file is read for a small part of the time only.
                next_s = began + max(every_s, _IDLE_SHARE * (time.monotonic() - began))


def _lost(path: Path, what: str) -> str:
    return (
        f"{path} {what} while it was open, so nothing is acknowledged: stop the server, put the "
        "file or a backup back in its place, and start it again"
    )


def _identity_of(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def _head(path: Path) -> bytes:
    with path.open("rb", buffering=0) as log:  # SQLite keeps no locks on the log
        return log.read(_LOG_HEADER.size) or b""


def _is_log_header(content: bytes) -> bool:
    """Whether recovery would accept a log that begins so: its checksum must be right."""
    if len(content) < _LOG_HEADER.size:
        return False
    magic, *_, first, second = _LOG_HEADER.unpack(content)
    if magic & ~1 != _LOG_MAGIC:
        return False
    order = ">" if magic & 1 else "<"
    sum_1 = sum_2 = 0
    words = struct.unpack(f"{order}6I", content[:24])
    for left, right in zip(words[::2], words[1::2], strict=True):
        sum_1 = (sum_1 + left + sum_2) & 0xFFFFFFFF
        sum_2 = (sum_2 + right + sum_1) & 0xFFFFFFFF
    return (sum_1, sum_2) == (first, second)
