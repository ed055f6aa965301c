"""Regime: one annotator who pauses half a second, updates one after another, the same two cores.

Run: pytest -m bench tests/bench/bench_training.py -s
"""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree

pytestmark = pytest.mark.bench


def test_annotators_hardly_notice_training():
    arguments = ["bench", "training"]
    output = CliRunner().invoke(command_tree(arguments), arguments, catch_exceptions=False).stdout
    print(output)
    figures = json.loads(output.splitlines()[-1])
    assert figures["wrong"] == 0
    assert figures["p95_ratio"] <= 1.5
    assert figures["health_max_ms"] < 1000
    assert figures["setup_max_ms"] < 3000
    assert figures["webhook_p99_ms"] < 300
    assert figures["webhook_over_1s"] == 0
    assert figures["webhook_not_201"] == 0
