"""`calico doctor --model`, and the plan before a large model is loaded."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from backend.cli import command_tree
from backend.cli import serve as serve_module
from backend.cli.options import load_weights
from calico_model.errors import CheckpointError, InsufficientMemoryError, InvalidConfigError
from calico_model.loading import fitting
from calico_model.loading.checkpoints import save_model
from calico_model.loading.precision import Precision
from calico_model.modeling.model import Calico
from calico_model.predictor import load_predictor
from calico_model.tokenizer import Tokenizer
from calico_model.types import ImageGroup


def doctor(*arguments: object) -> Result:
    words = ["doctor", *map(str, arguments)]
    return CliRunner(env={"COLUMNS": "160"}).invoke(command_tree(words), words)


@pytest.fixture(scope="module")
def report() -> Result:
    return doctor("--model", "7b", "--gpu-gb", 24)


def row(output: str, name: str) -> list[str]:
    """Cells behind the first cell that holds `name`."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines()]
    return next(cells[1:] for cells in rows if cells[:1] == [name])


def test_the_7b_on_a_24_gb_card(report: Result) -> None:
    assert report.exit_code == 0, report.exception
    line = json.loads(report.stdout.splitlines()[-1])
    assert (line["model"], line["precision"], line["images_at_once"]) == ("calico-7b", "bf16", 1)
    assert line["encoders_on_cpu"] is False
    assert line["weights_gib"] == 16.03
    assert line["weights_gib"] < line["peak_gib"] < line["available_gib"] < 24


def test_the_tables_show_the_published_figures(report: Result) -> None:
    assert row(report.stdout, "LLM")[:2] == ["6738.47", "6738.50"]
    assert row(report.stdout, "EVA-CLIP")[:2] == ["985.95", "986.00"]
    assert row(report.stdout, "bf16")[0] == "16.0"
    assert row(report.stdout, "int8")[0] == "10.0"
    assert row(report.stdout, "nf4")[0] == "7.1"
    assert row(report.stdout, "12 GB")[0].startswith("nf4, all on the GPU, 1 images")
    assert row(report.stdout, "80 GB")[0].startswith("bf16, all on the GPU, 8 images")
    assert "kept per image: 3.07 MiB of features" in report.stdout
    assert "kept per token: 512 KiB of keys and values" in report.stdout


def test_what_does_not_fit_is_refused_after_the_tables() -> None:
    result = doctor("--model", "7b", "--gpu-gb", 4)
    assert isinstance(result.exception, InsufficientMemoryError)
    assert "calico-7b in nf4 with its encoders on the CPU needs" in str(result.exception)
    assert row(result.stdout, "nf4")[0] == "7.1"


def test_no_such_model_is_named(tmp_path: Path) -> None:
    result = doctor("--model", tmp_path / "none")
    assert isinstance(result.exception, CheckpointError)
    assert "none: expected a model folder" in str(result.exception)


@pytest.fixture
def folder(model: Calico, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    save_model(model, tokenizer, tmp_path / "micro", dtype=torch.float32)
    return tmp_path / "micro"


def test_a_small_model_is_loaded_without_a_plan(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    assert fitting.plan_folder(folder, "cpu") is None
    assert not load_weights(folder, "cpu").version.endswith("-fp32")
    assert capsys.readouterr().err == ""


def test_a_large_model_is_planned_before_it_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    weights = sum(f.stat().st_size for f in folder.iterdir())
    monkeypatch.setattr(fitting, "usable_bytes", lambda _: 600 * 2**20 + weights)
    monkeypatch.setattr(fitting, "_SMALL_SHARE", 0.0)
    predictor = load_weights(folder, "cpu", Precision.INT8)
    assert predictor.version.endswith("-int8")
    told = capsys.readouterr().err
    assert "int8 on cpu, groups of 8" in told
    assert "peak of cpu" in told


def test_a_model_that_does_not_fit_is_not_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "usable_bytes", lambda _: 2**20)

    def not_loaded(*_arguments: object, **_options: object) -> None:
        raise AssertionError("loaded although it does not fit")

    monkeypatch.setattr("calico_model.predictor.load_model", not_loaded)
    with pytest.raises(InsufficientMemoryError, match="calico-micro in int8 needs .* GiB of cpu"):
        load_predictor(folder)


def test_kernels_are_looked_for_before_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(InvalidConfigError, match="nf4 on cpu needs bitsandbytes"):
        load_predictor(folder, precision=Precision.NF4)


def test_serve_plans_large_weights_in_another_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def refuse(words: list[str], **_options: object) -> SimpleNamespace:
        asked.append(words)
        return SimpleNamespace(returncode=2)

    monkeypatch.setattr(serve_module, "_LARGE_BYTES", 1)
    monkeypatch.setattr(serve_module.subprocess, "run", refuse)
    monkeypatch.setattr(serve_module, "run_server", lambda _: pytest.fail("serves all the same"))
    words = ["serve", "--weights", str(folder), "--precision", "nf4"]
    result = CliRunner().invoke(command_tree(words), words)
    assert result.exit_code == 2
    (command,) = asked
    assert command[3:] == [
        "doctor",
        "--model",
        str(folder),
        "--device",
        "cpu",
        "--precision",
        "nf4",
    ]


def test_a_predictor_in_fewer_bits_still_predicts(folder: Path, images: list[np.ndarray]) -> None:
    predictor = load_predictor(folder, precision=Precision.BF16)
    assert predictor.version.endswith("-bf16")
    prediction = predictor.predict(ImageGroup(tuple(images), ("a", "b")))
    assert prediction.version == predictor.version
