"""`calico bench training` at a real server with its trainer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree


@pytest.mark.slow
def test_answers_are_timed_while_an_update_trains(micro_weights: Path) -> None:
    words = ["bench", "training", "--weights", str(micro_weights), "--trainer-nice", "0"]
    words += ["--seconds", "1", "--pause", "0.05", "--update-seconds", "2"]
    words += ["--posters", "2", "--posts", "2"]
    result = CliRunner().invoke(command_tree(words), words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["wrong"] == report["webhook_not_201"] == 0
    assert min(report["predictions"]) > 0
    assert report["updates_s"]
