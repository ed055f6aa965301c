"""`calico demo --check`, the command that says whether an installation works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e


def test_check_succeeds_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "backend.cli", "demo", "--check", "--groups", "3"]

    # A folder of its own: another demo on this machine may be under way.
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)

    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert set(report) == {"ok", "tasks", "regions", "seconds"}
    assert (report["ok"], report["tasks"]) == (True, 3)
    assert report["regions"] >= 3
    assert list(tmp_path.glob("calico-demo-*")) == []


def test_check_fails_on_broken_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    command = [sys.executable, "-m", "backend.cli", "demo", "--check", "--groups", "1"]

    result = subprocess.run([*command, "--weights", str(tmp_path)], capture_output=True, text=True)

    assert result.returncode == 1
    assert json.loads(result.stdout.splitlines()[-1])["ok"] is False
    assert "the weights cannot be used" in result.stderr
