"""The span bench reads true answers; what it sums up is what was drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from backend.cli import command_tree
from backend.errors import SettingsError
from calico_model.errors import CheckpointError
from calico_model.loading.checkpoints import save_model
from calico_model.tokenizer import Tokenizer
from research.bench.spans import GroupFigures, summarise
from tests.conftest import build_micro


def run(weights: Path, *options: str) -> object:
    given = ["bench", "spans", "--weights", str(weights), "--groups", "1", *options]
    return CliRunner().invoke(command_tree(given), given)


@pytest.mark.parametrize("split", ["unseen-category", "unseen-domain"])
def test_groups_that_training_has_no_names_for_are_refused(tmp_path: Path, split: str) -> None:
    refused = run(tmp_path, "--split", split)
    assert isinstance(refused.exception, SettingsError)  # type: ignore[attr-defined]
    assert f"got {split}" in str(refused.exception)  # type: ignore[attr-defined]


def test_an_untrained_head_is_measured_on_every_mask(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = build_micro(tokenizer.size)
    save_model(model, tokenizer, tmp_path, dtype=torch.float32)
    refused = run(tmp_path)
    assert isinstance(refused.exception, CheckpointError)  # type: ignore[attr-defined]

    model.add_on(["span_head"])
    save_model(model, tokenizer, tmp_path, dtype=torch.float32)
    result = run(tmp_path)

    assert result.exit_code == 0, result.output  # type: ignore[attr-defined]
    figures = json.loads(result.stdout.strip().splitlines()[-1])  # type: ignore[attr-defined]
    assert figures["masks"] >= figures["phrases"] > 0
    assert 0 <= figures["span_miou"] <= 100


def test_groups_are_summed_up_mask_by_mask() -> None:
    first = GroupFigures(torch.tensor([1.0, 0.4]), torch.tensor([0.5, 0.5]), 2, 4, 2)
    second = GroupFigures(torch.tensor([1.0, 0.4]), torch.tensor([0.0, 0.0]), 2, 0, 0)

    figures = summarise([first, second])

    assert (figures.masks, figures.seg_miou, figures.span_miou) == (4, 70.0, 25.0)
    assert (figures.seg_recall, figures.span_recall) == (50.0, 50.0)
    assert (figures.phrase_precision, figures.phrase_recall) == (50.0, pytest.approx(50.0))
