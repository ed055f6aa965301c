"""Loading the model in the background: waiting for it, and saying what is wrong with it."""

from __future__ import annotations

import threading

import pytest

from backend.errors import NotReadyError
from backend.serving.model_host import ModelHost, ModelState
from calico_model.errors import CheckpointError
from tests.doubles import ModelDouble


class Loaded(ModelDouble):
    version = "tiny-1"


def test_start_returns_while_loading_goes_on():
    gate = threading.Event()

    def load():
        assert gate.wait(10)
        return Loaded()

    host = ModelHost(load)
    host.start()
    assert host.state is ModelState.LOADING
    assert host.version is None
    host.check()
    with pytest.raises(NotReadyError, match="still loading") as caught:
        host.wait(0)
    assert caught.value.retry_after_s == 5
    gate.set()
    assert host.wait(10).version == "tiny-1"
    assert host.state is ModelState.READY
    assert host.version == "tiny-1"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (CheckpointError("model.safetensors: sha256 differs"), "sha256 differs"),
        (MemoryError("boom"), "MemoryError"),
    ],
)
def test_weights_that_cannot_be_used_are_named(error, words):
    def load():
        raise error

    host = ModelHost(load)
    host.start()
    with pytest.raises(NotReadyError, match=words):
        host.wait(10)
    assert host.state is ModelState.FAILED
    with pytest.raises(NotReadyError, match="cannot be used"):
        host.check()
