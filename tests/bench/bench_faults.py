"""Regime: 8 threads, 10,000 changes on SQLite and as many on PostgreSQL; the disk fills, writes
fail, connections die, processes are killed at random statements, and PostgreSQL stops five times.

Run: pytest -m bench tests/bench/bench_faults.py -s
"""

from __future__ import annotations

import json

import pytest

from tests.integration.fault_campaign import run_campaign
from tests.integration.postgres_server import own_postgres

pytestmark = pytest.mark.bench
CHANGES = 10_000


def check(name, figures):
    print(json.dumps({"database": name} | figures))
    assert figures["changes"] >= CHANGES
    assert figures["lost"] == figures["doubled"] == figures["half"] == 0
    assert figures["without_head"] == 0


def test_ten_thousand_changes_on_sqlite(tmp_path):
    check("sqlite", run_campaign(f"sqlite:///{tmp_path / 'calico.sqlite3'}", CHANGES, seed=100))


def test_ten_thousand_changes_on_postgresql():
    with own_postgres() as (url, restart):
        figures = run_campaign(url, CHANGES, 200, restart=restart, restarts=5)
    check("postgresql", figures)
