"""`calico doctor --source`: figures of a source that is here, and of one that is not."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree
from calico_model.errors import InvalidConfigError
from calico_model.sources.known import KNOWN_SOURCES
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


def test_a_detector_is_expected_together_with_its_source_of_masks(tmp_path):
    both = run("owlv2-base+sam-base", data_dir=tmp_path)
    assert both.exit_code == 0, both.exception
    whole, masks = figures(both), figures(run("sam-base", data_dir=tmp_path))
    assert whole["state"] == "missing"
    assert whole["parameters"] == 155.0e6 + masks["parameters"]
    assert whole["encode_s"] > 1.5 * masks["encode_s"] > 0
    assert whole["encoding_mib"] > masks["encoding_mib"]
    assert "calico fetch --source owlv2-base" in both.stdout
    assert "calico fetch --source sam-base" in both.stdout
    (tmp_path / "sources" / "sam-base").mkdir(parents=True)
    half = run("owlv2-base+sam-base", data_dir=tmp_path)
    assert "calico fetch --source sam-base" not in half.stdout
    assert figures(half)["folder"] == str(tmp_path / "sources" / "owlv2-base")


def test_clip_is_expected_together_with_its_dino(tmp_path):
    result = run(f"clip-base+{tmp_path / 'dino'}", data_dir=tmp_path)
    assert result.exit_code == 0, result.exception
    found = figures(result)
    assert found["parameters"] > 149.6e6 + 80e6
    assert found["encode_s"] > 0
    assert "facebook/dino-vitb8" in result.stdout


def test_every_name_has_its_arithmetic():
    assert [row.name for row in KNOWN_SOURCES.values() if not row.encode_tflop] == []


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


def test_a_folder_that_may_not_be_looked_into_fails_with_the_reason(tmp_path, monkeypatch):
    def refuse(self, **_):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.exists", refuse)
    monkeypatch.setattr("pathlib.Path.is_dir", refuse)
    result = run("sam-base", data_dir=tmp_path)
    assert result.exit_code == 1
    assert "Permission denied" in figures(result)["state"]


def test_an_unknown_name_is_refused(tmp_path):
    assert isinstance(run("sam9", data_dir=tmp_path).exception, InvalidConfigError)
