"""What `calico review` refuses before it asks anybody."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree
from backend.errors import SettingsError


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--accept-above", "1.5"], "--accept-above: expected a score above 0, at most 1, got 1.5"),
        (["--accept-above", "0"], "--accept-above: expected"),
        (["--accept-above", "0.9", "--undo"], "either --accept-above or --undo"),
    ],
)
def test_options_that_cannot_be_meant_are_named(arguments, words):
    line = ["review", "--project", "7", *arguments]
    with pytest.raises(SettingsError, match=words):
        CliRunner().invoke(command_tree(line), line, catch_exceptions=False)
