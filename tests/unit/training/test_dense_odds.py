"""What the version before an update sees in corrections it never met shifts the odds after it."""

from __future__ import annotations

import numpy as np
import pytest

from calico_model.data.casting import Split
from calico_model.modeling.adapter import DENSE_SHIFT
from calico_model.modeling.adapter_set import AdapterSet
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.training import dense_odds
from calico_model.training.dense_odds import fit_shift
from calico_model.training.finetune import FinetunePlan, Replay, finetune
from tests.unit.training.examples import examples

PLAN = FinetunePlan(least_steps=2, steps_per_example=0, most_steps=2)


def test_outcomes_shift_the_odds_and_few_of_them_little() -> None:
    sure = np.full(40, 2.0)  # said to be right in 88 of 100
    half = np.tile([0.0, 1.0], 20)
    shift = fit_shift(sure, half, 0.0)
    assert -2.0 < shift < -1.4
    assert 2.0 + shift == pytest.approx(0.0, abs=0.5)
    few = fit_shift(sure[:2], half[:2], 0.0)
    assert shift < few < 0
    assert fit_shift(sure[:0], half[:0], 0.7) == pytest.approx(0.7)
    assert fit_shift(sure, np.ones(40), 0.0) > 0


def test_only_what_a_start_never_saw_tells_and_a_refinement_keeps_it(
    photo_model: Calico, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo_model.add_on(["dense_head"])
    adapters = AdapterSet(photo_model.eval(), tokenizer)
    first, second = ((one,) for one in examples(photo_model, Split.UNSEEN_DOMAIN, 2))
    asked: list[int] = []

    def told(model: Calico, unseen: object, known: tuple[float, float]) -> tuple[float, float]:
        asked.append(len(list(unseen)))  # type: ignore[call-overload]
        return (known[0] - 1.0, 0.5) if unseen else known

    monkeypatch.setattr("calico_model.training.finetune.own_shift", told)
    one = finetune(adapters, first, Replay(), PLAN)
    assert DENSE_SHIFT not in one.adapter.tensors
    two = finetune(adapters, second, Replay(first), PLAN, start=one.adapter)
    assert two.adapter.tensors[DENSE_SHIFT].tolist() == [-1.0, 0.5]
    assert two.adapter.dense_rows is not None
    assert two.adapter.dense_rows.shift == (-1.0, 0.5)
    three = finetune(adapters, (), Replay((*first, *second)), PLAN, start=two.adapter)
    assert three.adapter.tensors[DENSE_SHIFT].tolist() == [-1.0, 0.5]
    assert asked == [len(second), 0]


def test_a_head_that_knows_nothing_moves_nothing(photo_model: Calico) -> None:
    photo_model.add_on(["dense_head"])
    found = examples(photo_model, Split.UNSEEN_DOMAIN, 1)
    assert dense_odds.own_shift(photo_model, found, (0.3, -0.2)) == (0.3, -0.2)


def test_a_shift_is_carried_on_in_part_and_never_far() -> None:
    assert dense_odds._carried(0.0, -1.0) == pytest.approx(-0.3)
    assert dense_odds._carried(-0.4, -3.0) == -0.5
    assert dense_odds._carried(0.2, 0.2) == pytest.approx(0.2)
