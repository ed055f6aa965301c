"""Regime: slow sockets, pictures with long labels, too many clicks and 58 MB of {}, all at once.

Run: pytest -m bench tests/bench/bench_hostile.py -s
"""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree

pytestmark = pytest.mark.bench


def test_others_are_answered_while_clients_misbehave():
    arguments = ["bench", "hostile"]
    output = CliRunner().invoke(command_tree(arguments), arguments, catch_exceptions=False).stdout
    print(output)
    figures = json.loads(output.splitlines()[-1])
    assert figures["wrong"] == 0
    assert figures["health_p99_ms"] < 1000
    assert figures["webhooks_over_1s"] == 0
    assert figures["rss_growth_mb"] < 1000
    assert set(figures["answers"]["tasks_58mb"]) == {"400"}
