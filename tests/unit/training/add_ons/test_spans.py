"""The span head learns tags and masks from answers without tags; nothing else changes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from calico_model.data.pool import ScenePool
from calico_model.errors import InvalidConfigError
from calico_model.loading.checkpoints import load_model
from calico_model.modeling.adapter import base_state
from calico_model.modeling.span_head import Tag
from calico_model.tokenizer import Tokenizer
from calico_model.training.add_ons import span_lessons
from calico_model.training.add_ons.recipes import SpanRecipe
from calico_model.training.add_ons.span_lessons import SpanLessonFolder, make_lessons
from calico_model.training.add_ons.spans import span_losses, train_spans


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(span_lessons, "GROUPS_PER_CHUNK", 4)


def recipe(steps: int = 3, **changes: float) -> SpanRecipe:
    return SpanRecipe(chunks=1, steps=steps, masks=6, checkpoint_every=2, **changes)  # type: ignore[arg-type]


def test_every_seg_of_an_answer_becomes_a_mask_of_its_words(
    weights: Path, pool: Path, tokenizer: Tokenizer
) -> None:
    model, _ = load_model(weights)
    scene = ScenePool(pool).scene(0)

    lessons = make_lessons(model, tokenizer, [[scene, scene]], random.Random(1))

    assert len(lessons.tags) == 3, "one answer to each question"
    assert len(lessons.phrase) == len(lessons.anchor) == len(lessons.image) == len(lessons.target)
    assert (lessons.target > 127).flatten(1).any(1).all(), "no mask of what is named is empty"
    begun = int((lessons.tags == Tag.BEGIN).sum())
    assert len(lessons.image) == 2 * begun, "in a group of one scene, everything is on both images"
    assert lessons.rows.shape[1] == model.config.qformer.queries


def test_chunks_are_read_as_they_were_made(weights: Path, pool: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(weights)
    folder = SpanLessonFolder(tmp_path, model, tokenizer, ScenePool(pool), seed=3, chunks=2)
    folder.fill()
    first = folder.read(0)
    again = SpanLessonFolder(tmp_path, model, tokenizer, ScenePool(pool), seed=3, chunks=2)
    again.fill(lambda done, total: None)

    assert torch.equal(again.read(0).states, first.states)
    assert not torch.equal(folder.read(1).states, first.states)


def test_only_the_span_head_learns_and_a_stopped_run_goes_on(
    weights: Path, pool: Path, tmp_path: Path
) -> None:
    whole = train_spans(recipe(), weights, pool, tmp_path / "whole")
    asked = iter([False, False, True])
    stopped = train_spans(recipe(), weights, pool, tmp_path / "parts", stop=lambda: next(asked))
    assert stopped is None
    assert not (tmp_path / "parts" / "model").exists()
    parts = train_spans(recipe(), weights, pool, tmp_path / "parts")

    before, after, resumed = (base_state(load_model(f)[0]) for f in (weights, whole, parts))
    assert {n for n in after if n not in before} == {n for n in after if n.startswith("span_head.")}
    for name, tensor in after.items():
        assert torch.equal(tensor, resumed[name]), name
        if name in before:
            assert torch.equal(tensor, before[name].bfloat16().to(tensor.dtype)) or torch.equal(
                tensor, before[name]
            ), name
    assert load_model(whole)[0].config.query_source == "seg", "asked for by who read the figures"
    with pytest.raises(InvalidConfigError):
        train_spans(recipe(4), weights, pool, tmp_path / "whole")


def test_a_strong_anchor_keeps_queries_near_those_of_seg(
    weights: Path, pool: Path, tokenizer: Tokenizer
) -> None:
    model, _ = load_model(weights)
    scenes = [ScenePool(pool).scene(k) for k in range(2)]
    lessons = make_lessons(model, tokenizer, [[s, s] for s in scenes], random.Random(1))
    every = torch.arange(len(lessons.image))
    distances = []
    for weight in (0.0, 1000.0):
        torch.manual_seed(0)
        model.span_head = None
        model.add_on(["span_head"])
        head = model.span_head
        assert head is not None
        head.eval().requires_grad_(True)
        learner = torch.optim.Adam(head.parameters(), lr=3e-3)
        for _ in range(15):
            loss, _ = span_losses(model, head, lessons, every, recipe(anchor_weight=weight))
            learner.zero_grad()
            loss.backward()
            learner.step()
        with torch.no_grad():
            queries = head.query(lessons.phrase.float(), lessons.rows.float())
            distances.append(float((queries - lessons.anchor.float()).square().mean()))

    assert distances[1] < 0.9 * distances[0]
