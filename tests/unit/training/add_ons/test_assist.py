"""The add-ons learn, nothing else does, and a stopped run goes on as if it had not been."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from calico_model.data.pool import ScenePool
from calico_model.errors import InvalidConfigError
from calico_model.loading.checkpoints import load_model
from calico_model.modeling.adapter import base_state
from calico_model.modeling.mask_memory import MaskSource
from calico_model.training.add_ons import encoded_groups
from calico_model.training.add_ons.annotators import pieces_of
from calico_model.training.add_ons.assist import TAUGHT, draw_exemplars, draw_memories, train_assist
from calico_model.training.add_ons.encoded_groups import EncodedGroupFolder, EncodedGroups
from calico_model.training.add_ons.recipes import AssistRecipe

SIDE = 32


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded_groups, "GROUPS_PER_CHUNK", 6)


def test_what_was_encoded_is_found_again(weights: Path, pool: Path, tmp_path: Path) -> None:
    for _ in range(2):
        model, tokenizer = load_model(weights)
        EncodedGroupFolder(tmp_path, model, tokenizer, ScenePool(pool), seed=3, chunks=1).fill()
    assert len(list(tmp_path.glob("*/chunk-*"))) == 1


def recipe(steps: int = 4) -> AssistRecipe:
    return AssistRecipe(chunks=1, steps=steps, exemplars=4, memories=4, checkpoint_every=2)


def test_a_stopped_run_goes_on_to_the_same_end(weights: Path, pool: Path, tmp_path: Path) -> None:
    whole = train_assist(recipe(), weights, pool, tmp_path / "whole")
    asked = iter([False, False, True])
    stopped = train_assist(recipe(), weights, pool, tmp_path / "parts", stop=lambda: next(asked))
    assert stopped is None
    assert not (tmp_path / "parts" / "model").exists()
    parts = train_assist(recipe(), weights, pool, tmp_path / "parts")
    one, other = load_model(whole)[0], load_model(parts)[0]
    for name, tensor in base_state(one).items():
        assert torch.equal(tensor, base_state(other)[name]), name


def test_only_add_ons_learn(weights: Path, pool: Path, tmp_path: Path) -> None:
    folder = train_assist(recipe(2), weights, pool, tmp_path / "run")
    after, before = load_model(folder)[0], load_model(weights)[0]
    assert after.add_ons == TAUGHT
    for name, tensor in base_state(before).items():
        on_disk = tensor.bfloat16().float() if tensor.ndim > 1 else tensor
        assert torch.equal(base_state(after)[name], on_disk), name
    assert after.mask_memory is not None
    assert after.mask_memory.spread.weight.abs().max() > 0
    assert (folder / "MODEL_CARD.md").read_text() == "honest"


def test_another_recipe_does_not_go_on(weights: Path, pool: Path, tmp_path: Path) -> None:
    train_assist(recipe(2), weights, pool, tmp_path / "run")
    with pytest.raises(InvalidConfigError, match="steps"):
        train_assist(recipe(3), weights, pool, tmp_path / "run")


def test_absent_parts_have_no_target(groups: EncodedGroups) -> None:
    drawn = draw_exemplars(groups, np.random.default_rng(1), 12, SIDE)
    assert torch.equal(drawn.is_there, drawn.target.flatten(1).amax(1) > 0)
    assert bool(drawn.shares.flatten(1).any(1).all())
    assert bool((drawn.source != drawn.image).all())
    assert bool((drawn.source // 2 == drawn.image // 2).all())


def test_what_is_remembered_is_not_asked_for(groups: EncodedGroups) -> None:
    drawn = draw_memories(groups, np.random.default_rng(1), 16, SIDE)
    known = drawn.history.is_there & (drawn.history.source == MaskSource.APPROVED)
    shown = (drawn.history.logits > 0) & known[..., None, None]
    assert not bool((shown.any(1) & (drawn.target > 0.5)).any())
    assert bool(drawn.target.flatten(1).any(1).all())


def test_pieces_are_the_large_ones_apart() -> None:
    mask = np.zeros((64, 64), dtype=bool)
    mask[2:20, 2:6] = mask[2:20, 40:50] = mask[60, 60] = True
    first, second = pieces_of(mask)
    assert first[5, 45]
    assert second[5, 4]
    assert first.sum() + second.sum() == mask.sum() - 1


def test_a_recipe_without_steps_is_refused() -> None:
    with pytest.raises(InvalidConfigError, match="steps: expected >= 1, got 0"):
        AssistRecipe(steps=0)
