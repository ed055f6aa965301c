"""Rows of new labels: over the tables while they learn, in the tables when they serve."""

from __future__ import annotations

import torch

from calico_model.data.collate import Turn, collate_turns
from calico_model.modeling.adapter import INPUT_ROWS, OUTPUT_ROWS, Adapter, AdapterScope
from calico_model.modeling.adapter_set import AdapterSet
from calico_model.modeling.label_rows import LabelRows, mean_rows, needs_row
from calico_model.modeling.model import Calico
from calico_model.prompts import conversation
from calico_model.tokenizer import Tokenizer
from tests.unit.training.examples import SceneSplit, drawn, encoded

ANSWER = "The images show <p> the rotor </p> [SEG] (IMAGE1). No part is unique. </s>"


def logits(model: Calico, tokenizer: Tokenizer) -> torch.Tensor:
    features = encoded(model, drawn(SceneSplit.SEEN, 0).group)
    turn = Turn(conversation("Which?", 2), ANSWER, (0, 1))
    turns = collate_turns([turn], tokenizer, model.config.qformer.queries)
    found: torch.Tensor = model(features, turns.conversations)[1]
    return found


def test_rows_learn_as_they_will_serve(model: Calico, tokenizer: Tokenizer) -> None:
    adapters = AdapterSet(model, tokenizer)
    width = model.config.language.width
    rows = LabelRows(tokenizer.label_ids[:1], torch.randn(1, width), torch.randn(1, width))
    speaking = tokenizer.with_labels(["rotor"])
    with torch.no_grad(), rows.over(model):
        learning = logits(model, speaking)
    tensors = dict(adapters.base(AdapterScope()).tensors)
    tensors |= {INPUT_ROWS: rows.inputs.detach(), OUTPUT_ROWS: rows.outputs.detach()}
    adapters.activate(Adapter(AdapterScope(), tensors, ("rotor",)))
    with torch.no_grad():
        serving = logits(model, speaking)
        torch.testing.assert_close(learning, serving, atol=1e-4, rtol=1e-4)
        adapters.activate(None)
        assert not torch.allclose(logits(model, speaking), serving, atol=1e-3)


def test_only_the_rows_get_gradient(model: Calico, tokenizer: Tokenizer) -> None:
    model.requires_grad_(False)
    width = model.config.language.width
    rows = LabelRows(tokenizer.label_ids[:2], torch.randn(2, width), torch.randn(2, width))
    with rows.over(model):
        logits(model, tokenizer.with_labels(["rotor", "claw"]))[..., :400].sum().backward()
    assert rows.inputs.grad is not None
    assert bool(rows.inputs.grad[0].any())
    assert not rows.inputs.grad[1].any()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_without_labels_nothing_changes(model: Calico, tokenizer: Tokenizer) -> None:
    empty = LabelRows((), torch.zeros(0, 64), torch.zeros(0, 64))
    with torch.no_grad():
        before = logits(model, tokenizer)
        with empty.over(model):
            assert torch.equal(logits(model, tokenizer), before)


def test_names_that_are_spelled_need_a_row(tokenizer: Tokenizer) -> None:
    assert not needs_row("wheel", tokenizer)
    assert not needs_row("cargo box", tokenizer)
    assert needs_row("rotor", tokenizer)
    assert needs_row("wheel nut", tokenizer)


def test_a_mean_row_lies_between_the_names(model: Calico, tokenizer: Tokenizer) -> None:
    language = model.language
    tables = (language.model.embed_tokens.weight, language.lm_head.weight)
    (one, _), (two, _) = (mean_rows([name], tokenizer, tables) for name in ("wheel", "door"))
    both, _ = mean_rows(["wheel", "door"], tokenizer, tables)
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(both, one, dim=0) > cosine(two, one, dim=0)
    assert torch.allclose(one, tables[0][tokenizer.encode("wheel")[0]], atol=1e-5)
