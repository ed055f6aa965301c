"""Regime: calico-tiny on 64-px records, 20 steps of four micro-batches, one and two processes.

Run: pytest -m bench tests/bench/bench_parallel.py -s
"""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree
from calico_model.data.synthetic import SceneSplit, write_groups

pytestmark = pytest.mark.bench


def test_two_processes_have_the_curve_of_one(tmp_path):
    sizes = {"group_sizes": (2, 3), "size_px": 64}
    write_groups(tmp_path / "set", groups=24, seed=3, split=SceneSplit.SEEN, **sizes)
    arguments = ["bench", "parallel", "--data", str(tmp_path / "set")]
    output = CliRunner().invoke(command_tree(arguments), arguments, catch_exceptions=False).stdout
    print(output)
    figures = json.loads(output.splitlines()[-1])
    assert figures["max_rel_difference"] < 1e-3
