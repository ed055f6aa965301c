"""What was acknowledged is kept once, whatever the disk, the connection and the process suffer."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.integration.fault_campaign import run_campaign
from tests.integration.postgres_server import find_binaries, restart_postgres, running_postgres


def check(figures):
    assert figures["acknowledged"] > figures["changes"] / 4
    assert figures["lost"] == figures["doubled"] == figures["half"] == 0
    assert figures["without_head"] == 0


def test_sqlite_keeps_what_it_acknowledged_under_faults(tmp_path):
    check(run_campaign(f"sqlite:///{tmp_path / 'calico.sqlite3'}", changes=400, seed=1))


@pytest.mark.slow
def test_postgres_keeps_what_it_acknowledged_under_faults():
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed (initdb not found)")
    # Not pytest's folder, which is closed to the user the server runs as.
    with tempfile.TemporaryDirectory(prefix="calico-postgres-") as place:
        Path(place).chmod(0o755)
        folder = Path(place) / "server"
        with running_postgres(binaries, folder) as url:
            figures = run_campaign(
                url, 400, 2, restart=lambda: restart_postgres(binaries, folder), restarts=1
            )
            check(figures)
            assert figures["restarts"] == 1
