"""What is known of photographs on this machine, so that no run reads or encodes one again.

One SQLite file. A photograph is known by its path as long as size and time of the file stay the
same, and its vector by the hash of its content, wherever the file is moved to.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType

import numpy as np

from backend.errors import SettingsError
from calico_model.types import Vector

FILE = "photographs.sqlite3"
_TABLES = """
CREATE TABLE IF NOT EXISTS photograph (
    path TEXT PRIMARY KEY, bytes INTEGER NOT NULL, changed_ns INTEGER NOT NULL,
    digest TEXT NOT NULL, height INTEGER NOT NULL, width INTEGER NOT NULL, taken TEXT,
    fingerprint BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS photograph_digest ON photograph (digest);
CREATE TABLE IF NOT EXISTS vector (
    digest TEXT NOT NULL, encoder TEXT NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (digest, encoder)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Facts:
    """What one file of a photograph is.

    Attributes:
        digest: SHA-256 of the file's content, in hex.
        size_hw: height and width in pixels, EXIF orientation applied.
        taken: when it was taken, or None.
        fingerprint: of its looks, to find it again when it is encoded anew.
    """

    digest: str
    size_hw: tuple[int, int]
    taken: datetime | None
    fingerprint: bytes


class PhotoCache:
    """The file of known photographs; to be used by one thread.

    Args:
        folder: of the backend's data; created if it is not there.

    Raises:
        SettingsError: the file cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(self._path, timeout=60.0)
            self._file.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")
            self._file.executescript(_TABLES)
        except (OSError, sqlite3.Error) as error:
            raise SettingsError(f"--data-dir: {self._path} cannot be used ({error})") from error

    def __enter__(self) -> PhotoCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.save()
        except SettingsError:
            if error is None:  # what ended the work comes first
                raise
        finally:
            self._file.close()

    def facts(self, path: Path, state: os.stat_result) -> Facts | None:
        """Returns what is known of a file, None if it is new or was changed."""
        query = (
            "SELECT digest, height, width, taken, fingerprint FROM photograph "
            "WHERE path = ? AND bytes = ? AND changed_ns = ?"
        )
        with closing(self._file.execute(query, (str(path), *_state(state)))) as rows:
            row = rows.fetchone()
        return None if row is None else _facts(row)

    def fingerprints(self, digests: Iterable[str]) -> dict[str, bytes]:
        """Returns the fingerprints of photographs by hash; those never seen here are left out."""
        query = "SELECT fingerprint FROM photograph WHERE digest = ? LIMIT 1"
        found = {}
        for digest in digests:
            row = self._file.execute(query, (digest,)).fetchone()
            if row is not None:
                found[digest] = bytes(row[0])
        return found

    def keep(self, path: Path, state: os.stat_result, facts: Facts) -> None:
        """Remembers a file.

        Raises:
            SettingsError: the disk is full, or fails.
        """
        taken = None if facts.taken is None else facts.taken.isoformat()
        row = (str(path), *_state(state), facts.digest, *facts.size_hw, taken, facts.fingerprint)
        self._write("INSERT OR REPLACE INTO photograph VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def vector(self, digest: str, encoder: str) -> Vector | None:
        """Returns the vector of a content by an encoder, or None."""
        query = "SELECT value FROM vector WHERE digest = ? AND encoder = ?"
        row = self._file.execute(query, (digest, encoder)).fetchone()
        return None if row is None else np.frombuffer(row[0], np.float16).astype(np.float32)

    def keep_vector(self, digest: str, encoder: str, vector: Vector) -> None:
        """Remembers the vector of a content, at half precision.

        Raises:
            SettingsError: the disk is full, or fails.
        """
        row = (digest, encoder, vector.astype(np.float16).tobytes())
        self._write("INSERT OR REPLACE INTO vector VALUES (?, ?, ?)", row)

    def save(self) -> None:
        """Makes everything so far survive a stop.

        Raises:
            SettingsError: the disk is full, or fails.
        """
        with self._naming_the_file():
            self._file.commit()

    def _write(self, statement: str, row: tuple[object, ...]) -> None:
        with self._naming_the_file():
            self._file.execute(statement, row)

    @contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        """Names the file when its disk is full, or fails."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise SettingsError(
                f"--data-dir: {self._path} cannot be written ({error}); make room, then run the "
                "same command again"
            ) from error


def _state(state: os.stat_result) -> tuple[int, int]:
    return state.st_size, state.st_mtime_ns


def _facts(row: tuple[str, int, int, str | None, bytes]) -> Facts:
    digest, height, width, taken, looks = row
    when = None if taken is None else datetime.fromisoformat(taken)
    return Facts(digest, (height, width), when, bytes(looks))
