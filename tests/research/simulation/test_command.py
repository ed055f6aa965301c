"""`calico simulate` on the micro model: few groups, three steps an update."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree
from backend.cli.trainer import BASE_GROUPS
from backend.errors import SettingsError
from calico_model.data.synthetic import SceneSplit, write_groups
from calico_model.errors import InvalidConfigError
from research.simulation.command import base_groups, read_points


def simulate(*arguments: object) -> dict[str, object]:
    words = ["simulate", "--in-process", *map(str, arguments)]
    small = ["--next", "2", "--base-groups", "2", "--replay", "2", "--seconds", "1"]
    result = CliRunner().invoke(command_tree(words), [*words, *small], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    last: dict[str, object] = json.loads(result.stdout.splitlines()[-1])
    return last


def test_the_last_line_is_the_curve(micro_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = simulate("--weights", micro_weights, "--corrections", "0,1,2", "--out", out)
    curve = report["curve"]
    assert isinstance(curve, list)
    assert [point["corrections"] for point in curve] == [0, 1, 2]
    assert {"mIoU", "Recall", "update_s", "clicks_saved"} <= set(curve[0])
    assert curve[0]["update_s"] == 0
    assert curve[2]["update_s"] > 0
    assert len({point["version"] for point in curve}) == 3
    assert report["domain"] == "unseen-domain (drawn, seed 1)"
    assert set(report["forgetting"]) == {"mIoU", "Recall"}  # type: ignore[call-overload]
    assert json.loads((out / "simulation.json").read_text()) == report
    assert (out / "curve.png").is_file()


def test_any_data_set_of_ours_is_a_domain(micro_weights: Path, tmp_path: Path) -> None:
    write_groups(tmp_path / "set", groups=3, seed=4, split=SceneSplit.UNSEEN_DOMAIN, size_px=64)
    drawn = ["--weights", micro_weights, "--dataset", tmp_path / "set"]
    report = simulate(*drawn, "--corrections", "0,1")
    assert report["domain"] == str(tmp_path / "set")
    with pytest.raises(InvalidConfigError, match="holds 3 groups"):
        simulate(*drawn, "--corrections", "0,2")


@pytest.mark.parametrize("text", ["", "5,2", "1,1", "0;5", "-1,2"])
def test_corrections_are_rising_numbers(text: str) -> None:
    with pytest.raises(InvalidConfigError, match="--corrections"):
        read_points(text)


def test_a_running_backend_needs_the_folder_of_its_files(tmp_path: Path) -> None:
    words = ["simulate", "--backend", "http://127.0.0.1:9", "--corrections", "0,1"]
    with pytest.raises(SettingsError, match="--files"):
        CliRunner().invoke(command_tree(words), words, catch_exceptions=False)


def test_what_is_rehearsed_is_not_measured_on(tmp_path: Path) -> None:
    write_groups(tmp_path / "set", groups=40, seed=4, split=SceneSplit.SEEN, size_px=32)
    rehearsed, measured = base_groups(tmp_path / "set", replay=2, measured=10)
    assert (len(rehearsed), len(measured)) == (2, 40 - BASE_GROUPS)
    with pytest.raises(InvalidConfigError, match=r"--base: expected more than 50"):
        base_groups(tmp_path / "set", replay=50, measured=10)
