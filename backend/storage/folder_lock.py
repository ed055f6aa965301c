"""One server per SQLite file: a lock file beside it, with the name of the server that holds it.

SQLite before 3.51.3 can damage a file that two processes checkpoint. The lock belongs to the
process and its forks, and ends with them in any case. Does not read the database.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from backend.errors import StoreError

_log = logging.getLogger(__name__)
_EVERY_S = 0.2
_MOST_BYTES = 1000


@contextmanager
def served_alone(url: str, *, patience_s: float = 0.0) -> Iterator[None]:
    """Locks a database file against other servers while the block runs.

    Args:
        url: SQLAlchemy URL; a PostgreSQL server needs no lock.
        patience_s: seconds to wait for a server that is about to stop.

    Raises:
        StoreError: another server has the lock; the message names it.
    """
    lock = take_lock(url, patience_s=patience_s)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def take_lock(url: str, *, patience_s: float = 0.0) -> int | None:
    """Returns the descriptor that holds the lock until it is closed, None where none is needed.

    Raises:
        StoreError: another server has the lock, or the folder cannot be written.
    """
    database = _database_file(url)
    if database is None:
        return None
    path = database.with_name(database.name + ".lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"cannot open {path}: {error}") from error
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = _holder(lock)
                os.close(lock)
                raise StoreError(
                    f"{database} is served by {holder} already; stop that server, or give this "
                    "one a folder of its own (--data-dir, CALICO_DATA_DIR)"
                ) from None
            time.sleep(_EVERY_S)
        except OSError as error:  # some network file systems know no locks
            _log.warning("%s cannot be locked: %s", path, error, extra={"event": "no_lock"})
            return lock
        else:
            _sign(lock)
            return lock


def _database_file(url: str) -> Path | None:
    try:
        place = make_url(url)
    except ArgumentError:
        return None  # opening the database raises the error
    name = place.database
    is_file = place.get_backend_name() == "sqlite" and name and not name.startswith((":", "file:"))
    # The file itself: it may have several names.
    return Path(str(name)).resolve() if is_file else None


def _sign(lock: int) -> None:
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    holder = {"process": os.getpid(), "host": socket.gethostname(), "since": since}
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(holder).encode(), 0)


def _holder(lock: int) -> str:
    """The server that holds the lock, in words."""
    try:
        holder = json.loads(os.pread(lock, _MOST_BYTES, 0))
        return f"process {holder['process']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
