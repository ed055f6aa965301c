"""`calico fetch --source`: weights of a source beside the model, and their licence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.cli import fetch as fetch_module
from backend.cli.carried import RECEIPT, read_receipt
from backend.errors import FetchError
from calico_model.sources.hub_folder import look_into
from tests.unit.cli.fake_hub import REVISION, FakeHub
from tests.unit.cli.fetching import INDEX, failure, fetched, index, run, shard

SAM2 = "facebook/sam2.1-hiera-tiny"


@pytest.fixture
def source_hub(hub: FakeHub) -> FakeHub:
    hub.files[SAM2] = {
        "config.json": b'{"model_type": "sam2_video"}',
        "preprocessor_config.json": b"{}",
        "README.md": b"---\nlicense: apache-2.0\n---\n",
        "model.safetensors": shard(40),
        "sam2.1_hiera_tiny.pt": b"a pickle",
        "tokenizer.json": b"{}",
    }
    return hub


def test_a_source_arrives_in_its_place_and_its_licence_is_shown_before(
    source_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALICO_DATA_DIR", str(tmp_path))
    before = run("--source", "sam2.1-tiny")
    assert isinstance(before.exception, FetchError)  # nobody agreed
    assert "Apache-2.0" in before.stdout
    assert not (tmp_path / "sources").exists()
    assert run("--source", "sam2.1-tiny", "--yes").exit_code == 0
    folder = tmp_path / "sources" / "sam2.1-tiny"
    assert fetched(folder) == {RECEIPT, *source_hub.files[SAM2]} - {"sam2.1_hiera_tiny.pt"}
    assert look_into(folder).licence == "apache-2.0"
    again = run("--source", "sam2.1-tiny")
    assert json.loads(again.stdout.splitlines()[-1])["arrived_bytes"] == 0


def test_the_folder_of_a_source_is_carried_as_fetch_wrote_it(
    source_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stick = tmp_path / "stick"
    assert run("--source", "sam2.1-tiny", "--to", stick, "--yes").exit_code == 0
    monkeypatch.setattr(fetch_module, "Hub", None)  # from here on there is no hub
    arguments = ("--source", "sam2.1-tiny", "--from", stick, "--yes", "--to")
    assert run(*arguments, tmp_path / "a").exit_code == 0
    assert fetched(tmp_path / "a") == fetched(stick)
    receipt = read_receipt(tmp_path / "a")
    assert receipt is not None
    assert receipt.repositories[0].revision == REVISION
    other = failure("--source", "sam-base", "--from", stick, "--to", tmp_path / "b", "--yes")
    assert "has no facebook/sam-vit-base; expected it as" in other
    assert "its files in the folder itself" in other

    weights = stick / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "its sha256" in failure(*arguments, tmp_path / "c")
    (stick / RECEIPT).unlink()
    weights.write_bytes(whole)
    assert run(*arguments, tmp_path / "d").exit_code == 0, "copied by hand, without a receipt"
    assert look_into(tmp_path / "d").model_type == "sam2_video"


def test_the_shards_of_a_source_arrive_with_their_index(
    source_hub: FakeHub, tmp_path: Path
) -> None:
    files = source_hub.files[SAM2]
    files["a.safetensors"] = files.pop("model.safetensors")
    files[INDEX] = index({"w": "a.safetensors"})
    assert run("--source", "sam2.1-tiny", "--to", tmp_path / "s", "--yes").exit_code == 0
    assert {"a.safetensors", INDEX} <= fetched(tmp_path / "s")
    files[INDEX] = index({"w": "b.safetensors"})
    message = failure("--source", "sam2.1-tiny", "--to", tmp_path / "t", "--yes")
    assert "b.safetensors: named in" in message
    del files[INDEX]
    message = failure("--source", "sam2.1-tiny", "--to", tmp_path / "t", "--yes")
    assert "expected model.safetensors or an index" in message


def test_an_unknown_source_names_the_known_ones(hub: FakeHub) -> None:
    assert "expected one of sam-base, " in failure("--source", "sam9")
    assert "without --preset" in failure("--source", "sam-base", "--preset", "7b")
