"""A micro model on disk and records of 64-px groups: fine-tuning in about a second a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from calico_model.config import LoraConfig
from calico_model.data.synthetic import SceneSplit, write_groups
from calico_model.loading.checkpoints import save_model
from calico_model.modeling.model import Calico
from calico_model.presets import small_tokenizer
from calico_model.training.supervised.recipe import FinetuneRecipe
from calico_model.training.supervised.setup import FinetuneInputs
from tests.conftest import micro_config


@pytest.fixture
def _fresh_accelerator() -> Iterator[None]:
    """accelerate keeps the settings of a process's first training for good."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def micro_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "calico-micro"
    tokenizer = small_tokenizer()
    torch.manual_seed(5)
    config = replace(micro_config(tokenizer.size), lora=LoraConfig(rank=4, dropout=0.1))
    model = Calico(config)
    model.initialise()
    save_model(model, tokenizer, folder, dtype=torch.float32)
    return folder


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records") / "set"
    write_groups(folder, groups=6, seed=11, split=SceneSplit.SEEN, group_sizes=(2, 3), size_px=64)
    return folder


@pytest.fixture(scope="session")
def inputs(micro_weights: Path, records: Path) -> FinetuneInputs:
    return FinetuneInputs(micro_weights, records)


@pytest.fixture(scope="session")
def recipe() -> FinetuneRecipe:
    return FinetuneRecipe(
        epochs=2,
        steps_per_epoch=2,
        batch=4,
        micro_batch=2,
        learning_rate=1e-2,
        warmup_steps=1,
        holdout=0.3,
        most_validation=4,
        checkpoint_every=1,
        log_every=1,
    )
