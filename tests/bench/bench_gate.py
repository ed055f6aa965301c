"""Regime: calico-tiny, whole updates on 10 drawn projects of each kind, however long they take.

Run: pytest -m bench tests/bench/bench_gate.py -s
"""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree

pytestmark = pytest.mark.bench


def test_poison_is_refused_and_good_corrections_are_taken():
    figures = []
    for split in ("unseen-category", "unseen-domain"):
        arguments = ["bench", "gate", "--split", split, "--seeds", "10"]
        result = CliRunner().invoke(command_tree(arguments), arguments, catch_exceptions=False)
        print(result.stdout)
        figures.append(json.loads(result.stdout.splitlines()[-1]))
    assert sum(one["poisoned_rejected"] for one in figures) >= 19
    assert sum(one["good_accepted"] for one in figures) == 20
