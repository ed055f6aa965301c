"""`calico train` as people run it: twice, the second time going on where the first ended."""

from __future__ import annotations

import json
import subprocess
import sys

from calico_model.checkpoints import load_model


def run(*arguments):
    command = [sys.executable, "-m", "backend.cli", "train", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def test_training_ends_in_a_model_and_goes_on_when_asked_for_more(tmp_path):
    out = tmp_path / "run"
    asked = ["--out", str(out), "--pool-scenes", "50", "--encoder-steps", "1", "--joint-steps"]

    code, stdout, stderr = run(*asked, "1")
    assert code == 0, stderr
    assert json.loads(stdout.splitlines()[-1])["finished"] is True
    code, stdout, stderr = run(*asked, "2")
    assert code == 0, stderr

    load_model(out / "model")
    rows = (out / "curve.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["1", "2", "3"]


def test_another_seed_in_the_same_folder_is_refused(tmp_path):
    out = tmp_path / "run"
    asked = ["--out", str(out), "--pool-scenes", "50", "--encoder-steps", "1", "--joint-steps", "1"]
    assert run(*asked)[0] == 0

    code, _, stderr = run(*asked, "--seed", "5")
    assert code == 2
    assert "seed" in stderr
