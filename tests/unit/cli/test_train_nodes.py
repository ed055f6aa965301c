"""Options of `calico train` that name machines: what is refused, and when nothing is started."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree, train_nodes
from backend.cli.label_studio_process import free_port
from backend.cli.train_nodes import Launch
from backend.cli.train_peers import UNFINISHED
from backend.errors import SettingsError
from calico_model.errors import InvalidConfigError

RECORDS = ["--data", "records"]


def train(*options: str) -> None:
    words = ["train", "--out", "run", *options]
    CliRunner().invoke(command_tree(words), words, catch_exceptions=False)


@pytest.mark.parametrize("form", [[], RECORDS], ids=["scenes", "records"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rendezvous", "a:1"], "--rendezvous: is for several machines: give --nodes too"),
        (["--nodes", "2"], "--rendezvous: expected HOST:PORT of one of the 2 machines"),
        (["--nodes", "2", "--rendezvous", "a"], "a port from 1 to 65535, got 'a'"),
        (["--nodes", "2", "--rendezvous", ":1"], "a port from 1 to 65535, got ':1'"),
        (["--nodes", "2", "--rendezvous", "a:x"], "a port from 1 to 65535, got 'a:x'"),
        (["--nodes", "2", "--rendezvous", "a:0"], "a port from 1 to 65535, got 'a:0'"),
        (["--nodes", "2", "--rendezvous", "a:99999"], "a port from 1 to 65535, got 'a:99999'"),
        (["--nodes", "2", "--rendezvous", "a b:1"], "a port from 1 to 65535, got 'a b:1'"),
        (["--nodes", "2", "--rendezvous", "http://a:1"], "got 'http://a:1'"),
    ],
)
def test_machines_that_cannot_meet_are_refused_before_anything_is_made(
    form: list[str],
    options: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidConfigError, match=said):
        train(*form, *options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", [[], RECORDS], ids=["scenes", "records"])
def test_a_file_is_no_run_folder(form: list[str], tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(InvalidConfigError, match=f"--out: expected a folder, .*{tmp_path}/run$"):
        train("--out", str(tmp_path / "run"), *form)


@pytest.mark.parametrize("form", [[], RECORDS], ids=["scenes", "records"])
def test_machines_meet_before_anything_is_made(
    form: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_nodes, "_JOIN_S", 1)
    place = f"127.0.0.1:{free_port()}"
    words = ["train", "--out", "run", *form, "--nodes", "2", "--rendezvous", place]
    result = CliRunner().invoke(command_tree(words), words)
    assert result.exit_code == UNFINISHED, result.output
    assert f"calico: waiting for 2 machines at {place}, at most" in result.stderr
    assert "calico: --rendezvous: did not find, or lost, the other machines" in result.stderr
    assert not list(tmp_path.iterdir()), "no scene is drawn for machines that do not meet"


def test_the_batch_is_divided_among_the_processes_of_all_machines() -> None:
    with pytest.raises(InvalidConfigError, match="multiple of micro_batch times processes, 48"):
        train(*RECORDS, "--nodes", "3", "--processes", "2", "--rendezvous", "[::1]:29400")


def test_what_torchrun_started_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "of-a-job")
    Launch(processes=8, nodes=4).start()
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    with pytest.raises(InvalidConfigError, match="--rendezvous: expected HOST:PORT of one"):
        Launch(processes=8, nodes=4).start()


@pytest.mark.parametrize("form", [[], RECORDS], ids=["scenes", "records"])
@pytest.mark.parametrize("url", ["runs/x", "http://host/x", "s3://", "s3://key:word@bucket/x"])
def test_states_are_kept_in_a_folder_or_a_bucket(
    form: list[str], url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="--state-url: expected file:///FOLDER, s3://BUCKET"):
        train(*form, "--state-url", url)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(SettingsError, match=r"--state-url: s3:// needs s3fs; install calico"):
        train(*form, "--state-url", "s3://bucket/x")
    assert not list(tmp_path.iterdir())
