"""`calico fetch` against a hub on this machine, and from folders carried by hand."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save
from typer.testing import CliRunner, Result

from backend.cli import command_tree
from backend.cli import fetch as fetch_module
from backend.cli.carried import RECEIPT, read_receipt
from backend.cli.hub import Hub
from backend.cli.sources import PRESETS, select
from backend.errors import FetchError
from calico_model.sources.hub_folder import look_into
from tests.unit.cli.fake_hub import REVISION, FakeHub, serve

GLAMM, BLIP = "MBZUAI/GLaMM-GranD-Pretrained", "Salesforce/instructblip-vicuna-7b"
DINO, SAM = "facebook/dinov2-with-registers-base", "facebook/sam-vit-huge"
RELEASE = "PLAN-Lab/CALICO"
INDEX = "model.safetensors.index.json"


def shard(seed: int, size: int = 5000) -> bytes:
    return save({"w": np.random.default_rng(seed).random(size, dtype=np.float32)})


def index(shard_of: dict[str, str]) -> bytes:
    return json.dumps({"metadata": {}, "weight_map": shard_of}).encode()


GLAMM_KEYS = {
    "lm_head.weight": "model-00001-of-00003.safetensors",
    "model.layers.0.self_attn.q_proj.weight": "model-00001-of-00003.safetensors",
    "model.embed_tokens.weight": "model-00001-of-00003.safetensors",
    "model.text_hidden_fcs.0.0.weight": "model-00002-of-00003.safetensors",
    "model.grounding_encoder.mask_decoder.iou_token.weight": "model-00002-of-00003.safetensors",
    "model.grounding_encoder.image_encoder.pos_embed": "model-00002-of-00003.safetensors",
    "model.mm_projector.weight": "model-00003-of-00003.safetensors",
}
BLIP_KEYS = {
    "query_tokens": "model-00001-of-00004.safetensors",
    "vision_model.encoder.layers.0.layer_norm1.weight": "model-00001-of-00004.safetensors",
    "qformer.encoder.layer.0.attention.attention.query.weight": "model-00001-of-00004.safetensors",
    "language_model.lm_head.weight": "model-00002-of-00004.safetensors",
    "language_model.model.layers.3.mlp.up_proj.weight": "model-00003-of-00004.safetensors",
    "language_projection.weight": "model-00004-of-00004.safetensors",
}


def repository(keys: dict[str, str], seed: int, **files: bytes) -> dict[str, bytes]:
    shards = {name: shard(seed + k) for k, name in enumerate(sorted(set(keys.values())))}
    return {"config.json": b"{}", INDEX: index(keys), **shards, **files}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    content = {
        GLAMM: {
            **repository(GLAMM_KEYS, 1),
            "tokenizer.model": b"pieces",
            "added_tokens.json": b"{}",
            "README.md": b"long",
        },
        BLIP: {**repository(BLIP_KEYS, 10), "pytorch_model-00001-of-00004.bin": b"the same again"},
        DINO: {"config.json": b"{}", "model.safetensors": shard(20), "pytorch_model.bin": b"again"},
        SAM: {"model.safetensors": shard(30)},
    }
    with serve(FakeHub(content, {DINO: "apache-2.0"})) as served:
        monkeypatch.setattr(fetch_module, "Hub", lambda: Hub(served.url))
        yield served


def run(*arguments: object) -> Result:
    words = ["fetch", *map(str, arguments)]
    return CliRunner(env={"COLUMNS": "200"}).invoke(command_tree(words), words)


def fetched(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


EXPECTED = {
    RECEIPT,
    *(f"{GLAMM}/{name}" for name in ("config.json", INDEX, "tokenizer.model", "added_tokens.json")),
    f"{GLAMM}/model-00001-of-00003.safetensors",
    f"{GLAMM}/model-00002-of-00003.safetensors",
    f"{BLIP}/config.json",
    f"{BLIP}/{INDEX}",
    f"{BLIP}/model-00001-of-00004.safetensors",
    f"{BLIP}/model-00004-of-00004.safetensors",
    f"{DINO}/config.json",
    f"{DINO}/model.safetensors",
}


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


def failure(*arguments: object) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, FetchError), result.exception
    return str(result.exception)


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
