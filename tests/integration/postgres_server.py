"""A PostgreSQL of the tests' own; see `research.bench.postgres`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from research.bench.postgres import find_binaries, restart_postgres, running_postgres

__all__ = ["find_binaries", "own_postgres", "restart_postgres", "running_postgres"]


@contextmanager
def own_postgres() -> Iterator[tuple[str, Callable[[], None]]]:
    """Yields the URL of a running server, and a function that starts it again; else skips."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed (initdb not found)")
    # Not pytest's folder, which is closed to the user the server runs as.
    with tempfile.TemporaryDirectory(prefix="calico-postgres-") as place:
        Path(place).chmod(0o755)
        folder = Path(place) / "server"
        with running_postgres(binaries, folder) as url:
            yield url, lambda: restart_postgres(binaries, folder)
