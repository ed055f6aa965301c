"""`calico synth` writes sets that can be read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from backend.cli import command_tree
from backend.cli.labeled_data import read_group_size
from calico_model.data.groups import read_groups
from calico_model.errors import InvalidConfigError


def run(*arguments: object) -> Result:
    words = ["synth", *map(str, arguments)]
    return CliRunner().invoke(command_tree(words), words)


def test_writes_groups_that_can_be_read(tmp_path: Path) -> None:
    out = tmp_path / "set"
    result = run("--groups", 2, "--seed", 3, "--split", "unseen-style", "--size", 64, "--out", out)
    assert result.exit_code == 0, result.output
    line = json.loads(result.stdout.splitlines()[-1])
    assert (line["groups"], line["images"]) == (2, 4)
    assert (line["split"], line["seed"]) == ("unseen-style", 3)
    groups = read_groups(out)
    assert [len(labeled.group) for labeled in groups] == [2, 2]
    assert groups[0].group.sizes_hw == ((64, 64), (64, 64))


def test_group_sizes_vary_within_their_range(tmp_path: Path) -> None:
    out = tmp_path / "set"
    run("--groups", 8, "--group-size", "1-4", "--size", 64, "--out", out)
    sizes = {len(labeled.group) for labeled in read_groups(out)}
    assert sizes <= {1, 2, 3, 4}
    assert len(sizes) > 1


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = run("--groups", 1, "--out", tmp_path)
    assert isinstance(result.exception, InvalidConfigError)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(("text", "sizes"), [("2", (2, 2)), ("2-4", (2, 4)), (" 8 ", (8, 8))])
def test_group_size_is_one_number_or_a_range(text: str, sizes: tuple[int, int]) -> None:
    assert read_group_size(text) == sizes


@pytest.mark.parametrize("text", ["", "0", "9", "4-2", "2-9", "two", "2-", "-2", "2-3-4"])
def test_other_group_sizes_are_refused(text: str) -> None:
    with pytest.raises(InvalidConfigError, match="--group-size: expected 2 or 2-4"):
        read_group_size(text)


def test_unknown_split_is_a_usage_error(tmp_path: Path) -> None:
    result = run("--split", "photographs", "--out", tmp_path / "set")
    assert result.exit_code == 2
    assert "unseen-category" in result.output
