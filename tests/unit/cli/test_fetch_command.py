"""`calico fetch` of the public parts against a hub on this machine."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from huggingface_hub import constants

from backend.cli import fetch as fetch_module
from backend.cli.carried import RECEIPT
from backend.cli.hub import Hub
from backend.cli.sources import PRESETS, select
from backend.errors import FetchError
from tests.unit.cli.fake_hub import FakeHub
from tests.unit.cli.fetching import (
    BLIP,
    DINO,
    EXPECTED,
    GLAMM,
    GLAMM_KEYS,
    INDEX,
    RELEASE,
    SAM,
    failure,
    fetched,
    index,
    run,
)


def test_exactly_the_needed_files_arrive(hub: FakeHub, tmp_path: Path) -> None:
    result = run("--preset", "7b", "--to", tmp_path / "w", "--yes")
    assert result.exit_code == 0, result.exception
    # GLaMM brings SAM along, so SAM's own repository is not even asked for.
    assert fetched(tmp_path / "w") == EXPECTED
    for name in EXPECTED - {RECEIPT}:
        owner, repo, file = name.split("/")
        assert (tmp_path / "w" / name).read_bytes() == hub.files[f"{owner}/{repo}"][file]
    line = json.loads(result.stdout.splitlines()[-1])
    assert line["files"] == len(EXPECTED) - 1
    assert line["bytes"] == line["arrived_bytes"] > 80_000
    assert "apache-2.0" in result.stdout
    assert "research only" in result.stdout


def test_sam_comes_from_its_own_repository_if_glamm_has_none(hub: FakeHub, tmp_path: Path) -> None:
    keys = {k: v for k, v in GLAMM_KEYS.items() if "image_encoder" not in k}
    hub.files[GLAMM][INDEX] = index(keys)
    assert run("--preset", "7b", "--to", tmp_path, "--yes").exit_code == 0
    assert f"{SAM}/model.safetensors" in fetched(tmp_path)


def test_a_second_run_brings_nothing(hub: FakeHub, tmp_path: Path) -> None:
    run("--preset", "7b", "--to", tmp_path, "--yes")
    hub.asked.clear()
    result = run("--preset", "7b", "--to", tmp_path)  # nothing to agree to
    assert json.loads(result.stdout.splitlines()[-1])["arrived_bytes"] == 0
    assert {path.rpartition("/")[2] for path, _ in hub.asked} == {INDEX}


class Killed(BaseException):
    """The process ends, whatever is going on."""


@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_a_stopped_download_goes_on_where_it_stopped(
    hub: FakeHub, tmp_path: Path, ignores_ranges: bool
) -> None:
    origin = Hub(hub.url)
    listed = origin.repository(DINO)
    target = tmp_path / "model.safetensors"

    def stop(count: int) -> None:
        stop.total += count  # type: ignore[attr-defined]
        if stop.total > 8000:  # type: ignore[attr-defined]
            raise Killed

    stop.total = 0  # type: ignore[attr-defined]
    with pytest.raises(Killed):
        origin.download(listed, "model.safetensors", target, stop)
    assert not target.exists()
    (partial,) = tmp_path.iterdir()
    kept = partial.stat().st_size
    assert 4096 <= kept < len(hub.files[DINO]["model.safetensors"])

    hub.ignores_ranges = ignores_ranges
    Hub(hub.url).download(listed, "model.safetensors", target, lambda _: None)
    assert hub.asked[-1] == (f"{DINO}/model.safetensors", f"bytes={kept}-")
    assert target.read_bytes() == hub.files[DINO]["model.safetensors"]
    assert list(tmp_path.iterdir()) == [target]


def test_damaged_bytes_are_not_kept(hub: FakeHub, tmp_path: Path) -> None:
    hub.damaged.add("model-00001-of-00004.safetensors")
    result = run("--preset", "7b", "--to", tmp_path, "--yes")
    assert isinstance(result.exception, FetchError)
    assert f"{BLIP}/model-00001-of-00004.safetensors: its sha256" in str(result.exception)
    left = fetched(tmp_path)
    assert RECEIPT not in left
    assert not any("00004" in name for name in left)
    hub.damaged.clear()
    assert run("--preset", "7b", "--to", tmp_path, "--yes").exit_code == 0


def test_what_the_hub_refuses_is_said(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated.add(DINO)
    message = failure("--preset", "7b", "--to", tmp_path, "--yes")
    assert f"{DINO}/model.safetensors: its owners" in message
    assert "HF_TOKEN" in message
    hub.gated.clear()
    hub.unlisted.add("tokenizer.model")
    shutil.rmtree(tmp_path / "MBZUAI")
    message = failure("--preset", "7b", "--to", tmp_path, "--yes")
    assert f"{GLAMM}/tokenizer.model: the hub lists this file but does not have it" in message
    message = failure("--release", "calico", "--to", tmp_path, "--yes")
    assert f"{RELEASE}: no such repository, or a private one" in message


def test_offline_is_said(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in failure("--preset", "7b", "--to", tmp_path, "--yes")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(fetch_module, "Hub", lambda: Hub("http://127.0.0.1:9"))
    message = failure("--preset", "7b", "--to", tmp_path, "--yes")
    assert f"{GLAMM}: the hub cannot be reached (ConnectError)" in message
    assert "--from" in message


def test_a_full_disk_is_refused_before_anything_arrives(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 10**9))
    message = failure("--preset", "7b", "--to", tmp_path / "w", "--yes")
    assert "has 1.0 GB free, and 1.1 GB are needed" in message
    assert not (tmp_path / "w").exists()


def test_a_disk_that_fills_up_is_said(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("backend.cli.hub.http_get", full)
    origin = Hub(hub.url)
    listed = origin.repository(DINO)
    with pytest.raises(FetchError, match="model.safetensors: the disk is full"):
        origin.download(listed, "model.safetensors", tmp_path / "m", lambda _: None)


@pytest.mark.usefixtures("hub")
def test_nothing_arrives_without_agreement(tmp_path: Path) -> None:
    assert "add --yes" in failure("--preset", "7b", "--to", tmp_path / "w")
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "expected --preset 7b for the public parts, --release calico or --source NAME"),
        (["--preset", "13b"], "--preset: expected 7b, got '13b'"),
        (["--release", "glamm"], "--release: expected calico, got 'glamm'"),
        (["--preset", "7b", "--release", "calico"], "expected --preset 7b"),
        (["--preset", "7b", "--from", "/nowhere"], "--from: expected a folder"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], words: str) -> None:
    assert words in failure(*arguments)


def test_an_index_that_lies_is_named() -> None:
    glamm = PRESETS["7b"][0]
    with pytest.raises(FetchError, match="expected model.safetensors or an index"):
        select(glamm, ["README.md"], None)
    with pytest.raises(FetchError, match="index of its shards cannot be read"):
        select(glamm, [INDEX], "[]")
    with pytest.raises(FetchError, match="named in model.safetensors.index.json, but not there"):
        select(glamm, [INDEX], index(GLAMM_KEYS).decode())
    with pytest.raises(FetchError, match="unknown layout"):
        select(glamm, [INDEX], index({"a": "b.safetensors"}).decode())
