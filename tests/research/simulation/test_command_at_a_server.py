"""`calico simulate` at a server of its own, with its trainer."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from backend.cli import command_tree


def test_an_annotator_is_simulated_at_a_server_of_its_own(
    micro_weights: Path, tmp_path: Path
) -> None:
    few = ["--next", "1", "--base-groups", "1", "--replay", "4", "--seconds", "1"]
    words = ["simulate", "--weights", str(micro_weights), "--corrections", "0,1", *few]
    words += ["--out", str(tmp_path / "out")]
    result = CliRunner().invoke(command_tree(words), words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    before, after = report["curve"]
    assert (before["corrections"], after["corrections"]) == (0, 1)
    assert (before["update_s"], after["update_s"] > 0) == (0, True)
    assert before["version"].startswith("calico-micro")
    assert set(report["forgetting"]) == {"mIoU", "Recall"}
    assert json.loads((tmp_path / "out" / "simulation.json").read_text()) == report
