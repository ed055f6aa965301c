"""Regime: 32 posters, 95 kB bodies, real gunicorn and SQLite on this machine, as busy as it is.

Run: pytest -m bench tests/bench/bench_webhook.py -s
"""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree

pytestmark = pytest.mark.bench


def test_webhooks_are_acknowledged_in_label_studios_time():
    arguments = ["bench", "webhook"]
    output = CliRunner().invoke(command_tree(arguments), arguments, catch_exceptions=False).stdout
    print(output)
    figures = json.loads(output.splitlines()[-1])
    assert figures["p99_ms"] < 300
    assert figures["over_1s"] == 0
    assert figures["not_201"] == 0
