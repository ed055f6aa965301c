"""One base with adapters that answer by name: bit for bit the same as alone, also under threads."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.serving import loaded_model
from backend.serving.loaded_model import LoadedBase, ModelThread, load_base_model, worth_showing
from backend.settings import load_settings
from calico_model.errors import CheckpointError
from calico_model.inference.dense_answers import LEAST_SHOWN
from calico_model.inference.prompt import Click, MaskPrompt
from calico_model.modeling.adapter import AdapterScope, write_adapter
from calico_model.modeling.model import Calico
from calico_model.predictor import Predictor
from calico_model.presets import small_tokenizer
from calico_model.types import GroupPrediction, ImageGroup, MaskEvidence, PartMask, RegionKind
from tests.conftest import micro_config

BASE = "b" * 64


@pytest.fixture
def base():
    tokenizer = small_tokenizer()
    torch.manual_seed(3)
    model = Calico(micro_config(tokenizer.size))
    model.initialise()
    model.eval().requires_grad_(False)
    return LoadedBase(Predictor(model, tokenizer, version="micro-1"), BASE, ModelThread())


def write(base, folder, shift, fingerprint=BASE):
    scope = AdapterScope()
    model = base.model.adapters.model
    given = base.model.adapters.base(scope).tensors
    changed = {name: tensor + shift for name, tensor in given.items()}
    write_adapter(changed, folder, config=model.config, base=fingerprint, scope=scope)
    return folder


def group():
    rng = np.random.default_rng(1)
    images = tuple(rng.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(2))
    return ImageGroup(images, ("a", "b"))


def seen(prediction):
    masks = [(p.label, p.kind, p.image_index, p.mask.tobytes()) for p in prediction.parts]
    return prediction.answers, masks


def test_how_a_group_looks_does_not_depend_on_the_adapter(base, tmp_path: Path):
    adapted = base.with_adapter("v1", write(base, tmp_path / "v1", 0.2))
    assert (base.version, adapted.version) == ("micro-1", "v1")
    adapted.encode(group())
    assert np.array_equal(base.describe(group()), adapted.describe(group()))


def test_an_adapter_of_other_weights_is_refused(base, tmp_path: Path):
    with pytest.raises(CheckpointError, match="belongs to other weights"):
        base.with_adapter("v1", write(base, tmp_path / "a", 0.1, fingerprint="c" * 64))


def test_the_network_runs_in_one_thread_whoever_asks(base, tmp_path: Path):
    ran_in = set()
    for module in base.model.adapters.model.modules():
        module.register_forward_hook(lambda *_: ran_in.add(threading.current_thread().name))
    adapted = base.with_adapter("v1", write(base, tmp_path / "v1", 0.2))
    callers = [
        threading.Thread(target=one.predict, args=(group(),)) for one in (base, adapted, base)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    base.describe(group())
    base.encode(group())
    base.refine(group(), 0, MaskPrompt((Click(20.0, 20.0, True),)))
    assert ran_in == {"model"}


def test_threads_get_the_answers_of_the_version_they_ask(base, tmp_path: Path):
    versions = {
        name: base.with_adapter(name, write(base, tmp_path / name, shift))
        for name, shift in (("v1", 0.2), ("v2", -0.3))
    }
    predictors = {"micro-1": base, **versions}
    alone = {name: seen(one.predict(group())) for name, one in predictors.items()}
    wrong = []

    def ask(name):
        for _ in range(3):
            found = predictors[name].predict(group())
            if found.version != name or seen(found) != alone[name]:
                wrong.append(name)

    threads = [threading.Thread(target=ask, args=(name,)) for name in (*predictors, "v1", "v2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert alone["v1"] != alone["v2"]


def test_an_adapter_nobody_answers_with_leaves_the_memory(base, tmp_path: Path):
    adapted = base.with_adapter("v1", write(base, tmp_path / "a", 0.1))
    adapted.predict(group())
    again = base.with_adapter("v1", tmp_path / "a")
    again.predict(group())
    del adapted
    gc.collect()
    assert base.model.adapters.versions == ("v1",)
    del again
    gc.collect()
    assert base.model.adapters.versions == ()


def test_what_a_project_does_not_keep_of_photographs_is_left_out() -> None:
    mask = np.ones((4, 4), np.bool_)

    def region(score: float, evidence: MaskEvidence | None) -> PartMask:
        return PartMask(0, RegionKind.COMMON_PART, "wheel", mask, score=score, evidence=evidence)

    known = region(0.1, MaskEvidence(0.5, 0.5, 0.5))
    unsure, sure = region(LEAST_SHOWN - 0.01, None), region(LEAST_SHOWN, None)
    found = worth_showing(GroupPrediction((known, unsure, sure), "v", {"q": "a"}))
    assert found.parts == (known, sure)
    assert (found.version, found.answers) == ("v", {"q": "a"})


@pytest.mark.parametrize(
    ("cores", "chosen", "threads"),
    [(1, None, 1), (2, None, 1), (4, None, 2), (16, None, 8), (2, 2, 2)],
)
def test_a_prediction_takes_half_of_the_cores_unless_told(monkeypatch, cores, chosen, threads):
    given = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.setattr(loaded_model, "load_predictor", lambda *_, **how: given.append(how))
    load_base_model(load_settings(model_threads=chosen))
    assert given[0]["threads"] == threads
