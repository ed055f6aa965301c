"""What was acknowledged is kept once, whatever the disk, the connection and the process suffer."""

from __future__ import annotations

import pytest

from tests.integration.fault_campaign import run_campaign
from tests.integration.postgres_server import own_postgres


def check(figures):
    assert figures["acknowledged"] > figures["changes"] / 4
    assert figures["lost"] == figures["doubled"] == figures["half"] == 0
    assert figures["without_head"] == 0


def test_sqlite_keeps_what_it_acknowledged_under_faults(tmp_path):
    check(run_campaign(f"sqlite:///{tmp_path / 'calico.sqlite3'}", changes=400, seed=1))


@pytest.mark.slow
def test_postgres_keeps_what_it_acknowledged_under_faults():
    with own_postgres() as (url, restart):
        figures = run_campaign(url, 400, 2, restart=restart, restarts=1)
    check(figures)
    assert figures["restarts"] == 1
