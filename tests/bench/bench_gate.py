"""Regime: calico-tiny, whole updates on 20 projects of the unseen domain, however long they take.

Run: pytest -m bench tests/bench/bench_gate.py -s
"""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree

pytestmark = pytest.mark.bench


def test_poison_is_refused_and_good_corrections_are_taken():
    arguments = ["bench", "gate", "--seeds", "20"]
    output = CliRunner().invoke(command_tree(arguments), arguments, catch_exceptions=False).stdout
    print(output)
    figures = json.loads(output.splitlines()[-1])
    assert figures["poisoned_rejected"] >= 19
    assert figures["good_accepted"] >= 19
