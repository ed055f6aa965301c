"""What trainings of add-ons begin with: scenes, the weights of a micro model, encoded groups."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from calico_model.data.pool import ScenePool, fill_pool
from calico_model.loading.checkpoints import load_model, save_model
from calico_model.tokenizer import Tokenizer
from calico_model.training.add_ons.encoded_groups import EncodedGroupFolder, EncodedGroups
from tests.conftest import build_micro


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    fill_pool(folder, scenes=8, seed=4, size_px=64, groups_per_chunk=4)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "micro"
    save_model(build_micro(tokenizer.size), tokenizer, folder, dtype=torch.float32)
    (folder / "MODEL_CARD.md").write_text("honest")
    return folder


@pytest.fixture
def groups(weights: Path, pool: Path, tmp_path: Path) -> EncodedGroups:
    model, tokenizer = load_model(weights)
    folder = EncodedGroupFolder(
        tmp_path / "lessons", model, tokenizer, ScenePool(pool), seed=3, chunks=1
    )
    folder.fill()
    return folder.read(0)
