"""`calico flops` as people run it, on the small network."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree
from calico_model.errors import InvalidConfigError
from research.cost.command import read_sizes

KEYS = {
    "images",
    "separate_runs_tflops",
    "ours_tflops",
    "ratio",
    "glamm_style_tflops",
    "vs_glamm",
    "image_tokens",
}


def run(*options: str) -> str:
    arguments = ["flops", "--preset", "tiny", *options]
    result = CliRunner().invoke(command_tree(arguments), arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return str(result.stdout)


def test_a_page_a_picture_and_one_line_of_json(tmp_path: Path) -> None:
    page, chart = tmp_path / "cost.md", tmp_path / "cost.svg"
    output = run("--images", "1..3", "--markdown", str(page), "--plot", str(chart))

    figures = json.loads(output.splitlines()[-1])
    assert set(figures) > KEYS
    assert [row["images"] for row in figures["per_images"]] == [1, 2, 3]
    assert figures["images"] == 2
    assert figures["ratio"] == pytest.approx(
        figures["ours_tflops"] / figures["separate_runs_tflops"], abs=1e-3
    )
    assert figures["vs_glamm"] == pytest.approx(
        100 * (figures["ours_tflops"] / figures["glamm_style_tflops"] - 1), abs=0.1
    )
    assert "By group size" in output

    text = page.read_text("utf-8")
    assert "![Cost by part and by group size](cost.svg)" in text
    assert "`calico flops --preset tiny --images 1..3`" in text
    rows = [line for line in text.splitlines() if re.match(r"\| \d \|", line)]
    shares = [float(row.split(" | ")[4].rstrip("%")) for row in rows]
    assert shares == pytest.approx([100 * r["ratio"] for r in figures["per_images"]], abs=0.06)
    assert chart.read_text("utf-8").startswith("<?xml")


def test_json_alone() -> None:
    output = run("--images", "2", "--tokens", "20", "--json")
    assert len(output.splitlines()) == 1
    assert set(json.loads(output)) >= KEYS
    assert "per_images" not in json.loads(output)


@pytest.mark.parametrize(
    ("text", "sizes"), [("2", (2,)), ("2..4", (2, 3, 4)), ("7-8", (7, 8)), ("1", (1,))]
)
def test_sizes_are_read(text: str, sizes: tuple[int, ...]) -> None:
    assert read_sizes(text) == sizes


@pytest.mark.parametrize("text", ["", "0", "9", "4..2", "2..9", "two", "2..", "2...4", "1.5"])
def test_other_sizes_are_named(text: str) -> None:
    with pytest.raises(InvalidConfigError, match=r"--images: expected N or N\.\.M from 1 to 8"):
        read_sizes(text)


@pytest.mark.parametrize(
    ("option", "name"), [("--plot", "a.gif"), ("--markdown", "a.txt"), ("--plot", "no/a.svg")]
)
def test_a_wrong_file_name_is_refused_before_counting(
    tmp_path: Path, option: str, name: str
) -> None:
    arguments = ["flops", "--preset", "tiny", option, str(tmp_path / name)]
    with pytest.raises(InvalidConfigError, match=name.rpartition("/")[2]):
        CliRunner().invoke(command_tree(arguments), arguments, catch_exceptions=False)
    assert not any(tmp_path.iterdir())
