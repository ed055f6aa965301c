"""`calico ablate` as people run it: begun, picked up with another row, and refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from calico_model.training.lexicon import small_tokenizer
from tests.unit.ablation.minute import save_minute


def run(*arguments: object) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "backend.cli", "ablate", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def test_a_study_goes_on_where_it_was_left_and_keeps_to_its_plan(tmp_path: Path) -> None:
    weights = save_minute(tmp_path / "weights", small_tokenizer())
    out = tmp_path / "study"
    asked = ["--weights", weights, "--out", out, "--scenes", 32, "--groups", 2, "--jobs", 2]

    code, stdout, stderr = run(*asked, "--steps", 2, "--rows", "without_cem")
    assert code == 0, stderr
    assert list(json.loads(stdout.splitlines()[-1])) == ["without_cem", "full"]
    finished = out / "trials" / "full-27" / "outcome.json"
    written = finished.stat().st_mtime_ns
    (out / "trials" / "without_cem-27" / "outcome.json").unlink()  # as a kill leaves a trial

    code, stdout, stderr = run(*asked, "--steps", 2, "--rows", "without_cem,without_qformer")
    assert code == 0, stderr
    verdict = json.loads(stdout.splitlines()[-1])
    assert list(verdict) == ["without_qformer", "without_cem", "full"]
    assert verdict["full"].keys() == {"compat", "strict", "full_minus_row", "seeds"}
    assert finished.stat().st_mtime_ns == written
    assert {path.name for path in out.glob("ablation.*")} == {
        "ablation.json",
        "ablation.md",
        "ablation.png",
    }

    code, _, stderr = run(*asked, "--steps", 3, "--rows", "without_cem")
    assert code == 2
    assert "begun with steps 2, now 3" in stderr
