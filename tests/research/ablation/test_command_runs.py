"""`calico ablate` as people run it: begun, then picked up with another row."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from backend.cli import command_tree
from calico_model.presets import small_tokenizer
from tests.research.ablation.minute import save_minute


def run(*arguments: object) -> dict[str, object]:
    words = ["ablate", *map(str, arguments)]
    result = CliRunner().invoke(command_tree(words), words)
    assert result.exit_code == 0, result.output
    verdict: dict[str, object] = json.loads(result.stdout.splitlines()[-1])
    return verdict


def test_a_study_goes_on_where_it_was_left(tmp_path: Path) -> None:
    weights = save_minute(tmp_path / "weights", small_tokenizer())
    out = tmp_path / "study"
    asked = ["--weights", weights, "--out", out, "--scenes", 32, "--groups", 2, "--steps", 2]

    assert list(run(*asked, "--rows", "full", "--jobs", 1)) == ["full"]
    outcome = out / "trials" / "full-27" / "outcome.json"
    written = outcome.stat().st_mtime_ns
    killed = out / "trials" / "without_cem-27"  # as a kill leaves a trial: begun, no outcome
    killed.mkdir()
    (killed / "leftover").touch()

    verdict = run(*asked, "--rows", "without_cem", "--jobs", 2)
    assert list(verdict) == ["without_cem", "full"]
    assert outcome.stat().st_mtime_ns == written
    assert (killed / "outcome.json").is_file()
    assert not (killed / "leftover").exists()
    names = {path.name for path in out.glob("ablation.*")}
    assert names == {"ablation.json", "ablation.md", "ablation.png"}
    assert (out / "ablation.md").read_text().count("w/o CEM") >= 3
