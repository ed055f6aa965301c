"""A hub on this machine with the public parts, for tests of `calico fetch`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from huggingface_hub import constants

from backend.cli import fetch as fetch_module
from backend.cli.hub import Hub
from tests.unit.cli.fake_hub import FakeHub, serve
from tests.unit.cli.fetching import BLIP, BLIP_KEYS, DINO, GLAMM, GLAMM_KEYS, SAM, repository, shard


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
