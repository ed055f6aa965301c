from __future__ import annotations

from pathlib import Path

import pytest

from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from research.ablation.plan import COMPONENTS, TrialPlan
from research.ablation.study import Study, open_material, prepare
from research.ablation.trial import Material
from tests.research.ablation.minute import minute_model, save_minute


@pytest.fixture(scope="session")
def base(tokenizer: Tokenizer) -> Calico:
    return minute_model(tokenizer.size)


@pytest.fixture(scope="session")
def study(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A prepared study: scenes, features and groups are there, no trial has run."""
    folder: Path = tmp_path_factory.mktemp("study")
    plan = TrialPlan(steps=3, scenes=16, groups=2, pairs=2, masks=4, resamples=20)
    weights = save_minute(folder / "weights", tokenizer)
    prepared = Study(weights, plan, COMPONENTS, (27,), folder / "out")
    prepare(prepared, workers=1, on_progress=lambda progress: None)
    return prepared


@pytest.fixture(scope="session")
def material(study: Study) -> Material:
    return open_material(study)
