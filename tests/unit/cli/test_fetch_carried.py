"""`calico fetch --from`: folders that were carried by hand, and the cache of the hub's client."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from backend.cli import fetch as fetch_module
from backend.cli.carried import RECEIPT, read_receipt
from backend.cli.hub import Hub
from tests.unit.cli.fake_hub import REVISION, FakeHub
from tests.unit.cli.fetching import BLIP, DINO, EXPECTED, GLAMM, failure, fetched, run


@pytest.fixture
def machine(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder fetched elsewhere; from here on there is no hub."""
    folder = tmp_path / "stick"
    assert run("--preset", "7b", "--to", folder, "--yes").exit_code == 0

    def no_network() -> Hub:
        raise AssertionError("the network is not to be used")

    monkeypatch.setattr(fetch_module, "Hub", no_network)
    return folder


def test_a_carried_folder_is_taken_whole(machine: Path, tmp_path: Path) -> None:
    result = run("--preset", "7b", "--from", machine, "--to", tmp_path / "w", "--yes")
    assert result.exit_code == 0, result.exception
    assert fetched(tmp_path / "w") == EXPECTED
    receipt = read_receipt(tmp_path / "w")
    assert receipt is not None
    assert {r.revision for r in receipt.repositories} == {REVISION}


def test_a_carried_folder_can_be_checked_where_it_is(machine: Path) -> None:
    result = run("--preset", "7b", "--from", machine, "--to", machine)
    assert json.loads(result.stdout.splitlines()[-1])["arrived_bytes"] == 0


def test_incomplete_or_damaged_carriage_is_named(machine: Path, tmp_path: Path) -> None:
    first = machine / GLAMM / "model-00001-of-00003.safetensors"
    whole = first.read_bytes()
    first.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    arguments = ("--preset", "7b", "--from", machine, "--to", tmp_path / "w", "--yes")
    assert f"{GLAMM}/{first.name}: its sha256" in failure(*arguments)
    first.write_bytes(whole[:-4])
    assert f"{GLAMM}/{first.name}: expected {len(whole)} bytes" in failure(*arguments)
    first.unlink()
    assert f"{GLAMM}/{first.name}: missing in" in failure(*arguments)
    shutil.rmtree(machine / BLIP)
    first.write_bytes(whole)
    assert f"--from: {machine} has no {BLIP}" in failure(*arguments)
    assert not (tmp_path / "w" / RECEIPT).exists()


def test_without_a_receipt_headers_tell_a_truncated_file(machine: Path, tmp_path: Path) -> None:
    (machine / RECEIPT).unlink()
    file = machine / DINO / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    message = failure("--preset", "7b", "--from", machine, "--to", tmp_path / "w", "--yes")
    assert f"{DINO}/model.safetensors: truncated" in message


def test_the_cache_of_the_hubs_client_will_do(machine: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for name in (GLAMM, BLIP, DINO):
        snapshot = cache / f"models--{name.replace('/', '--')}" / "snapshots" / REVISION
        blobs = snapshot.parent.parent / "blobs"
        snapshot.mkdir(parents=True)
        blobs.mkdir()
        for file in (machine / name).iterdir():
            data = file.read_bytes()
            blob = blobs / sha256(data).hexdigest()
            blob.write_bytes(data)
            (snapshot / file.name).symlink_to(blob)
    arguments = ("--preset", "7b", "--from", cache, "--to", tmp_path / "w", "--yes")
    assert run(*arguments).exit_code == 0
    assert fetched(tmp_path / "w") == EXPECTED
    assert not any(p.is_symlink() for p in (tmp_path / "w").rglob("*"))
    shutil.rmtree(tmp_path / "w")
    blob.write_bytes(b"x" * len(data))
    assert "its sha256" in failure(*arguments)
