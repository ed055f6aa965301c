"""What `calico ablate` refuses before any work begins."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree
from calico_model.errors import InvalidConfigError
from research.ablation.command import read_seeds


def test_seeds_are_different_numbers() -> None:
    assert read_seeds("27") == (27,)
    assert read_seeds("27, 28") == (27, 28)
    for text in ("", "a", "27,27", "-1", "27,"):
        with pytest.raises(InvalidConfigError, match="--seeds: expected different numbers"):
            read_seeds(text)


def test_an_unknown_row_is_refused_with_the_known_ones() -> None:
    words = ["ablate", "--out", "nowhere", "--rows", "dino"]
    result = CliRunner().invoke(command_tree(words), words)
    assert isinstance(result.exception, InvalidConfigError)
    assert "without_dino" in str(result.exception)
