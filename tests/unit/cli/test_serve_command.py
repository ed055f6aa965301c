"""What `calico serve` refuses before it listens."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from backend.cli import command_tree
from backend.errors import SettingsError
from backend.settings import misspelt_variables


def serve(*arguments: object) -> None:
    words = ["serve", *map(str, arguments)]
    command_tree(words)(words, standalone_mode=False)


def test_a_weights_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "nope"
    with pytest.raises(SettingsError, match=f"--weights: .* got {missing}"):
        serve("--weights", missing, "--data-dir", tmp_path, "--port", 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_busy_port_is_refused_in_one_sentence(tmp_path: Path, host: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=f"--port: cannot listen on {host}:{port} "):
            serve("--host", host, "--port", port, "--data-dir", tmp_path)


def test_a_misspelt_setting_is_named_with_the_likely_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CALICO_TRAINR", "CALICO_TRAIN_SECOND", "CALICO_WEIGHTS", "CALICO_SCREENSHOTS"):
        monkeypatch.setenv(name, "x")
    assert misspelt_variables() == {
        "CALICO_TRAINR": "CALICO_TRAINER",
        "CALICO_TRAIN_SECOND": "CALICO_TRAIN_SECONDS",
    }
