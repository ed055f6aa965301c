"""The measurement of a large job that is killed, small."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree
from research.bench import prelabel_kills
from research.bench.prelabel_kills import measure_killed_job
from research.bench.server import BenchError

pytestmark = pytest.mark.research


@pytest.mark.slow
def test_every_group_of_a_killed_job_is_there_once_for_little_more_work():
    words = ["bench", "prelabel", "--groups", "30", "--kills", "2"]
    result = CliRunner().invoke(command_tree(words), words, catch_exceptions=False)
    figures = json.loads(result.stdout.splitlines()[-1])
    assert figures["once"] == figures["groups"] == 30
    # Two workers and the driver were killed: each had one group under way, the driver's two had.
    assert 30 <= figures["begun"] <= 34
    assert figures["work"] == round(figures["begun"] / 30, 4)


def test_a_job_that_ends_early_is_told(tmp_path):
    with pytest.raises(BenchError, match="began 0 predictions, and not 1"):
        measure_killed_job(8, weights=tmp_path / "no weights")


def test_whole_lines_are_counted(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b".\n.\n.")
    assert prelabel_kills._begun(log) == 2
