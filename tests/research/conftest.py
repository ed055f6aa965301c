"""Tests of the measurements are a tier of their own: `make test-research` runs them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from calico_model.loading.checkpoints import save_model
from calico_model.tokenizer import Tokenizer
from tests.conftest import build_micro

FOLDER = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test below this folder, before the markers decide what runs."""
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.research)


@pytest.fixture(scope="session")
def micro_weights(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """Folder of the micro model's weights, which tests only read."""
    folder = tmp_path_factory.mktemp("weights") / "calico-micro"
    save_model(build_micro(tokenizer.size), tokenizer, folder, dtype=torch.float32)
    return folder
