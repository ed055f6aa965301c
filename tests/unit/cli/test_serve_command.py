"""What `calico serve` refuses before it listens."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from backend import _wsgi
from backend.cli import command_tree
from backend.errors import SettingsError
from backend.serving.model_host import ModelHost
from backend.settings import misspelt_variables
from tests.integration.fake_predictor import FakePredictor


def serve(*arguments: object) -> None:
    words = ["serve", *map(str, arguments)]
    command_tree(words)(words, standalone_mode=False)


def test_a_weights_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "nope"
    with pytest.raises(SettingsError, match=f"--weights: .* got {missing}"):
        serve("--weights", missing, "--data-dir", tmp_path, "--port", 0)


def test_a_weights_folder_of_the_environment_is_named_by_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALICO_WEIGHTS", str(tmp_path))
    with pytest.raises(SettingsError, match=f"^CALICO_WEIGHTS: .*{tmp_path} holds no weights"):
        serve("--data-dir", tmp_path, "--port", 0)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SettingsError, match=f"--weights: .*{tmp_path} holds no weights"):
        serve("--weights", tmp_path, "--data-dir", tmp_path, "--port", 0)


def test_an_option_is_named_as_it_was_typed_and_a_variable_as_it_was_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(SettingsError, match="^--label-studio-url: expected http://HOST"):
        serve("--label-studio-url", "studio")
    monkeypatch.setenv("LABEL_STUDIO_URL", "studio")
    with pytest.raises(SettingsError, match="^LABEL_STUDIO_URL: expected http://HOST"):
        serve()


def test_readiness_is_told_once_the_model_is_loaded(caplog: pytest.LogCaptureFixture) -> None:
    host = ModelHost(FakePredictor)
    caplog.set_level("INFO")
    _wsgi.announce(host, "http://127.0.0.1:9090", patience_s=0)
    assert not caplog.records  # still loading
    host.start()
    _wsgi.announce(host, "http://127.0.0.1:9090")
    (ready,) = [record for record in caplog.records if record.name == "backend._wsgi"]
    assert ready.getMessage().startswith("ready at http://127.0.0.1:9090")
    assert "calico connect --project ID" in ready.next_step


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
