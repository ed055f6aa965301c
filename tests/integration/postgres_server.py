"""A PostgreSQL of the tests' own; see `research.bench.postgres`."""

from __future__ import annotations

from research.bench.postgres import find_binaries, restart_postgres, running_postgres

__all__ = ["find_binaries", "restart_postgres", "running_postgres"]
