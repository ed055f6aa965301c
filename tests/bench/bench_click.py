"""Regime: one annotator on an opened task of two one-megapixel images, every click a new place.

Run: pytest -m bench tests/bench/bench_click.py -s
"""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree

pytestmark = pytest.mark.bench


def test_a_click_is_answered_at_once_however_much_is_drawn():
    arguments = ["bench", "click"]
    output = CliRunner().invoke(command_tree(arguments), arguments, catch_exceptions=False).stdout
    print(output)
    figures = json.loads(output.splitlines()[-1])
    assert figures["p50_ms"] <= 60
    assert figures["p95_ms"] <= 120
    assert figures["p50_ms_100_masks"] <= 60
    assert figures["p95_ms_100_masks"] <= 120
    assert figures["p50_ms_100_masks"] <= 1.2 * figures["p50_ms"]
