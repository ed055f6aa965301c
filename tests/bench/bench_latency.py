"""Regime: probes every 20 ms during a weight load and four askers, the machine as busy as it is.

Run: pytest -m bench tests/bench/bench_latency.py -s
"""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree

pytestmark = pytest.mark.bench


def test_health_and_setup_answer_in_label_studios_time():
    arguments = ["bench", "latency"]
    output = CliRunner().invoke(command_tree(arguments), arguments, catch_exceptions=False).stdout
    print(output)
    figures = json.loads(output.splitlines()[-1])
    assert figures["health_p99_ms"] < 100
    assert figures["setup_p99_ms"] < 300
    assert figures["max_ms"] < 1000
    assert figures["not_200"] == 0
    assert figures["predictions"] > 0
