"""One predictor, many versions: every answer is of the version it names."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from calico_model.errors import CheckpointError
from calico_model.modeling.adapter import Adapter, AdapterScope
from calico_model.modeling.model import Calico
from calico_model.predictor import Predictor
from calico_model.tokenizer import Tokenizer
from calico_model.types import ImageGroup

VERSIONS = (None, "one", "two")


@pytest.fixture
def group(images: list[np.ndarray]) -> ImageGroup:
    return ImageGroup(tuple(images), ("a", "b"))


@pytest.fixture
def predictor(model: Calico, tokenizer: Tokenizer) -> Predictor:
    made = Predictor(model, tokenizer, version="base")
    base = made.adapters.base(AdapterScope())
    for number, version in enumerate(VERSIONS[1:]):
        generator = torch.Generator().manual_seed(number)
        tensors = {
            name: tensor + 0.3 * torch.randn(tensor.shape, generator=generator)
            for name, tensor in base.tensors.items()
        }
        made.adapters.add(str(version), Adapter(base.scope, tensors))
    return made


def test_an_answer_is_of_the_version_it_names(predictor: Predictor, group: ImageGroup) -> None:
    alone = {v: predictor.predict(group, adapter=v).answers for v in VERSIONS}
    assert len({str(answers) for answers in alone.values()}) == len(VERSIONS)
    asked = [VERSIONS[k % 3] for k in range(18)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda v: predictor.predict(group, adapter=v), asked))
    assert [one.version for one in answers] == [v or "base" for v in asked]
    assert [one.answers for one in answers] == [alone[v] for v in asked]


def test_a_version_dropped_while_others_ask_is_refused(
    predictor: Predictor, group: ImageGroup
) -> None:
    before = predictor.predict(group).answers
    predictor.predict(group, adapter="one")
    predictor.adapters.drop("one")
    with pytest.raises(CheckpointError, match="'one' is not loaded"):
        predictor.predict(group, adapter="one")
    assert predictor.predict(group).answers == before


def test_what_is_not_asked_of_a_version_is_asked_of_the_base(
    predictor: Predictor, group: ImageGroup
) -> None:
    before = predictor.predict_reworded(group, 1).answers
    predictor.predict(group, adapter="two")
    assert predictor.predict_reworded(group, 1).answers == before


def test_kept_features_are_the_ones_predictions_use(
    predictor: Predictor, group: ImageGroup
) -> None:
    features = predictor.encode(group)
    assert len(features) == len(group)
    predictor.predict(group)
    assert predictor.features.misses == len(group)
