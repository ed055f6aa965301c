"""`calico doctor --source`: figures of a source that is here, and of one that is not."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree
from calico_model.errors import InvalidConfigError
from tests.unit.sources import test_sam


def run(*arguments, data_dir):
    words = ["doctor", "--source", *map(str, arguments)]
    environment = {"COLUMNS": "200", "CALICO_DATA_DIR": str(data_dir)}
    return CliRunner(env=environment).invoke(command_tree(words), words)


def figures(result):
    return json.loads(result.stdout.splitlines()[-1])


def test_what_is_not_here_is_expected_from_its_arithmetic(tmp_path):
    result = run("sam-huge", data_dir=tmp_path)
    assert result.exit_code == 0, result.exception
    huge, tiny = figures(result), figures(run("edgetam", data_dir=tmp_path))
    assert huge["state"] == "missing"
    assert huge["licence"] == "Apache-2.0"
    assert huge["weights_mib"] == pytest.approx(641.1e6 * 4 / 2**20, abs=0.1)
    assert huge["encode_s"] > 5 * tiny["encode_s"] > 0
    assert "calico fetch --source sam-huge" in result.stdout
    assert "seconds per image, expected" in result.stdout
    assert not huge["is_measured"]


def test_a_gated_source_says_so(tmp_path):
    result = run("sam3-tracker", data_dir=tmp_path)
    assert "its owners must grant access" in figures(result)["licence"]


def test_what_is_here_is_measured(tmp_path):
    model, _ = test_sam.save(tmp_path / "sources" / "sam-base", is_hq=False)
    result = run("sam-base", data_dir=tmp_path)
    assert result.exit_code == 0, result.exception
    found = figures(result)
    assert found["state"] == "ready"
    assert found["is_measured"]
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    assert found["encode_s"] > 0
    assert found["prompt_s"] > 0
    assert found["encoding_mib"] == 0.0  # 16 channels on 8 x 8 cells


def test_a_folder_that_cannot_be_used_fails_with_the_reason(tmp_path):
    (tmp_path / "own").mkdir()
    result = run(tmp_path / "own", data_dir=tmp_path)
    assert result.exit_code == 1
    assert "config.json" in figures(result)["state"]


def test_an_unknown_name_is_refused(tmp_path):
    assert isinstance(run("sam9", data_dir=tmp_path).exception, InvalidConfigError)
