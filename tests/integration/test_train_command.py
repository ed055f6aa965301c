"""`calico train` as people run it: twice, the second time going on where the first ended."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from calico_model.loading.checkpoints import load_model
from calico_model.predictor import DEFAULT_WEIGHTS as SHIPPED

SCENES = ["--pool-scenes", "50"]
LAST_STAGES = ["--refine-steps", "1", "--settle-steps", "1", "--widen-steps", "1"]
STEPS = ["--encoder-steps", "1", "--joint-steps", "1", *LAST_STAGES]


def run(*arguments):
    command = [sys.executable, "-m", "backend.cli", "train", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a run with one step of every stage."""
    out = tmp_path_factory.mktemp("train") / "run"
    code, stdout, stderr = run("--out", str(out), *SCENES, *STEPS, "--balance-steps", "1")
    assert code == 0, stderr
    assert json.loads(stdout.splitlines()[-1])["finished"] is True
    return out


def test_training_ends_in_a_model_and_goes_on_when_asked_for_more(finished):
    code, _, stderr = run("--out", str(finished), *SCENES, *STEPS, "--balance-steps", "2")
    assert code == 0, stderr

    load_model(finished / "model")
    rows = (finished / "curve.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["1", "2", "3", "4", "5", "6", "7"]


def test_another_seed_in_the_same_folder_is_refused(finished):
    more = ["--balance-steps", "2", "--seed", "5"]
    code, _, stderr = run("--out", str(finished), *SCENES, *STEPS, *more)
    assert code == 2
    assert "seed" in stderr


def test_refining_starts_from_given_weights(finished, tmp_path):
    given = ["--pool", str(finished / "pool"), "--start-from", str(SHIPPED)]
    steps = [*LAST_STAGES, "--balance-steps", "1"]
    code, _, stderr = run("--out", str(tmp_path / "run"), *given, *SCENES, *steps)
    assert code == 0, stderr

    refined, _ = load_model(tmp_path / "run" / "model")
    shipped, _ = load_model(SHIPPED)
    is_moved = False
    # Add-ons were taught behind the weights before: they do not go along.
    assert refined.add_ons == ()
    left = (".lora_", *(f"{name}." for name in shipped.add_ons))
    learned = {
        name for name, _ in shipped.named_parameters() if not any(part in name for part in left)
    }
    now, before = refined.state_dict(), shipped.state_dict()
    for name in sorted(learned):
        ours, theirs = now[name], before[name]
        # One step of a warming-up optimiser is small beside bf16's own rounding on disk.
        assert torch.allclose(ours, theirs, rtol=2**-6, atol=1e-3), name
        is_moved = is_moved or not torch.equal(ours, theirs)
    assert is_moved
    rows = (tmp_path / "run" / "curve.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == ["refine", "settle", "widen", "balance"]
