"""The online update, end to end on the micro model."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from calico_model.data.casting import SceneSplit
from calico_model.errors import InvalidConfigError
from calico_model.modeling.adapter import INPUT_ROWS, Adapter, AdapterScope, adapter_names
from calico_model.modeling.adapter_set import AdapterSet
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.training.online.scoring import score_groups
from calico_model.training.online.update import (
    Replay,
    UpdatePlan,
    UpdateProgress,
    averaged,
    update_adapter,
)
from tests.unit.training.examples import examples

PLAN = UpdatePlan(least_steps=2, steps_per_example=0, most_steps=2)


@pytest.fixture
def adapters(model: Calico, tokenizer: Tokenizer) -> AdapterSet:
    return AdapterSet(model, tokenizer)


def same(first: Adapter, second: Adapter) -> bool:
    return first.labels == second.labels and all(
        torch.equal(tensor, second.tensors[name]) for name, tensor in first.tensors.items()
    )


def test_equal_inputs_give_equal_bits(adapters: AdapterSet) -> None:
    new = examples(adapters.model, SceneSplit.UNSEEN_DOMAIN, 2)
    replay = Replay((), examples(adapters.model, SceneSplit.SEEN, 2))
    first, second = (update_adapter(adapters, new, replay, PLAN).adapter for _ in range(2))
    assert same(first, second)
    other = update_adapter(adapters, new, replay, replace(PLAN, seed=1)).adapter
    assert not same(first, other)


def test_an_update_leaves_the_base_as_it_was(adapters: AdapterSet) -> None:
    before = {name: t.clone() for name, t in adapters.model.state_dict().items()}
    new = examples(adapters.model, SceneSplit.UNSEEN_DOMAIN, 2)
    update_adapter(adapters, new, Replay(), PLAN)
    after = adapters.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_names_never_met_get_a_row_each(adapters: AdapterSet) -> None:
    new = examples(adapters.model, SceneSplit.UNSEEN_DOMAIN, 2)
    update = update_adapter(adapters, new, Replay(), PLAN)
    assert update.adapter.labels
    assert set(update.adapter.labels) <= {name for one in new for name in one.labels}
    rows = update.adapter.tensors[INPUT_ROWS]
    assert rows.shape == (len(update.adapter.labels), adapters.model.config.language.width)
    again = update_adapter(adapters, new[:1], Replay(new[1:]), PLAN, start=update.adapter)
    assert again.adapter.labels[: len(update.adapter.labels)] == update.adapter.labels


def test_only_what_is_in_scope_changes(adapters: AdapterSet) -> None:
    scope = AdapterScope(lora=False, cam=False, cem=False, queries=False)
    new = examples(adapters.model, SceneSplit.UNSEEN_DOMAIN, 2)
    adapter = update_adapter(adapters, new, Replay(), replace(PLAN, scope=scope)).adapter
    base = adapters.base(AdapterScope()).tensors
    assert set(adapter.tensors) - {"label_rows.input", "label_rows.output"} == set(
        adapter_names(adapters.model, scope)
    )
    assert any(not torch.equal(t, base[n]) for n, t in adapter.tensors.items() if n in base)


def test_an_update_is_met_halfway(adapters: AdapterSet) -> None:
    new = examples(adapters.model, SceneSplit.UNSEEN_DOMAIN, 2)
    start = update_adapter(adapters, new[:1], Replay(), PLAN).adapter
    whole, half = (
        update_adapter(
            adapters, new[1:], Replay(new[:1]), replace(PLAN, most_kept=share), start=start
        )
        for share in (0.0, 0.5)
    )
    assert same(averaged(start, whole.adapter, 0.5), half.adapter)
    assert not same(whole.adapter, half.adapter)


def test_a_start_counts_as_much_as_its_corrections() -> None:
    assert PLAN.start_share(0, 5) == 0.0
    assert PLAN.start_share(5, 15) == 0.25
    assert PLAN.start_share(20, 5) == PLAN.most_kept == 0.5
    assert PLAN.start_share(0, 0) == 0.0


def test_what_the_start_learned_elsewhere_is_kept(adapters: AdapterSet) -> None:
    new = examples(adapters.model, SceneSplit.UNSEEN_DOMAIN, 1)
    first = update_adapter(adapters, new, Replay(), PLAN).adapter
    scope = AdapterScope(lora=False, cam=False, cem=False, queries=False)
    second = update_adapter(
        adapters, new, Replay(), replace(PLAN, scope=scope), start=first
    ).adapter
    assert second.scope == first.scope
    assert torch.equal(second.tensors["query_tokens"], first.tensors["query_tokens"])


def test_stopping_before_the_first_step_gives_the_start_back(adapters: AdapterSet) -> None:
    new = examples(adapters.model, SceneSplit.UNSEEN_DOMAIN, 1)
    update = update_adapter(adapters, new, Replay(), PLAN, stop=lambda: True)
    assert update.was_stopped
    assert update.steps == 0
    assert same(update.adapter, adapters.base(AdapterScope()))


def test_a_slow_machine_makes_fewer_steps(adapters: AdapterSet) -> None:
    ticks = itertools.count(0, 5)
    seen: list[UpdateProgress] = []
    new = examples(adapters.model, SceneSplit.UNSEEN_DOMAIN, 1)
    plan = replace(PLAN, least_steps=20, most_steps=20, seconds=20.0)
    update = update_adapter(
        adapters, new, Replay(), plan, clock=lambda: float(next(ticks)), on_progress=seen.append
    )
    assert update.planned_steps == 20
    assert update.steps == 4
    assert [one.step for one in seen] == [1, 2, 3, 4]
    assert seen[-1].eta_s == 0.0


def test_there_must_be_something_to_learn(adapters: AdapterSet) -> None:
    with pytest.raises(InvalidConfigError, match="new"):
        update_adapter(adapters, (), Replay(), PLAN)


def test_learning_lowers_the_loss(adapters: AdapterSet) -> None:
    new = examples(adapters.model, SceneSplit.UNSEEN_DOMAIN, 1)
    plan = replace(PLAN, least_steps=12, most_steps=12, learning_rate=5e-3)
    losses: list[float] = []
    update_adapter(adapters, new, Replay(), plan, on_progress=lambda p: losses.append(p.loss))
    assert sum(losses[-3:]) < sum(losses[:3])


def test_scores_are_of_the_adapter_asked_for(adapters: AdapterSet) -> None:
    measured = examples(adapters.model, SceneSplit.SEEN, 2)
    scores = score_groups(adapters, None, measured)
    assert [one.key for one in scores.groups] == [one.key for one in measured]
    assert 0 <= scores.miou <= 100
    assert sum(there for _, there in scores.by_label.values()) == sum(
        len(one.truth) for one in measured
    )
    assert score_groups(adapters, adapters.base(AdapterScope()), measured) == scores
