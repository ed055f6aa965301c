"""The loop of every training: stages, rows, states, an early stop; and the rates of recipes."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from calico_model.training.engine import (
    TrainingLoop,
    TrainingProgress,
    draw_ahead,
    ignore_progress,
    make_step,
)
from calico_model.training.schedules import cosine_rate, flat_rate, linear_rate


class Counting(TrainingLoop[float]):
    """A weight learns to be the number of the step, in stages that end after 3 and 5 steps."""

    def __init__(self, out: Path) -> None:
        module = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(module.weight)
        optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
        self.saved: list[int] = []
        super().__init__(
            module, optimizer, out, stage_ends=[3, 5], clip_norm=9.0, log_every=2,
            checkpoint_every=4,
        )  # fmt: skip

    def draw(self, step: int) -> float:
        return float(step)

    def backward(self, batch: float) -> Mapping[str, Tensor]:
        loss = (self.module(torch.ones(1)) - batch).square().sum()
        torch.autograd.backward(loss)
        return {"loss": loss, "batch": torch.tensor(batch)}

    def rate_at(self, step: int) -> float:
        return 0.5 / (1 + self.stage_of(step)[0])

    def stage_name(self, stage: int) -> str:
        return ("first", "second")[stage]

    def end_stage(self) -> dict[str, float]:
        return {"stages": float(len(self.saved))}

    def save(self) -> None:
        self.saved.append(self.step)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "curve.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_ends_every_stage_and_a_state_is_never_written_twice(tmp_path: Path) -> None:
    seen: list[TrainingProgress] = []
    run = Counting(tmp_path)
    assert run.train(seen.append, lambda: False)
    table = rows(tmp_path)
    assert [(row["step"], row["stage"]) for row in table] == [
        ("2", "first"), ("3", "first"), ("4", "second"), ("5", "second")
    ]  # fmt: skip
    assert [row["batch"] for row in table] == ["0.5", "2", "3", "4"]
    assert [row["learning_rate"] for row in table] == ["0.5", "0.5", "0.25", "0.25"]
    assert [row["stages"] for row in table] == ["", "0", "", "2"]
    assert run.saved == [3, 4, 5]
    assert [(p.stage, p.step, p.total) for p in seen][-1] == ("second", 5, 5)


def test_a_stop_saves_and_a_resumed_run_goes_on_there(tmp_path: Path) -> None:
    whole, parts = Counting(tmp_path / "whole"), Counting(tmp_path / "parts")
    whole.train(ignore_progress, lambda: False)
    answers = iter([False, False, True])
    assert not parts.train(ignore_progress, lambda: next(answers))
    assert (parts.step, parts.saved) == (2, [2])
    assert parts.train(ignore_progress, lambda: False)
    assert torch.equal(parts.parameters()["weight"].detach(), whole.parameters()["weight"].detach())
    assert parts.train(ignore_progress, pytest.fail)  # nothing left to do


def test_data_are_drawn_one_step_ahead_and_none_too_many() -> None:
    drawn: list[int] = []

    def draw(step: int) -> int:
        drawn.append(step)
        return step * step

    batches = draw_ahead(draw, range(2, 5))
    assert next(batches) == 4
    assert list(batches) == [9, 16]
    assert drawn == [2, 3, 4]
    assert list(draw_ahead(draw, range(0))) == []


def test_a_step_clips_all_gradients_together_and_scales_a_peak() -> None:
    slow, fast = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [slow]}, {"params": [fast], "peak": 2.0}], lr=1.0)
    slow.grad, fast.grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert make_step(optimizer, [slow, fast], 0.5, 1.0) == pytest.approx(5.0)
    assert slow.item() == pytest.approx(-0.5 * 0.6)
    assert fast.item() == pytest.approx(-1.0 * 0.8)
    assert slow.grad is None


def test_rates_rise_and_fall() -> None:
    linear = [linear_rate(step, 10, warmup_steps=4) for step in range(10)]
    assert linear[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert linear[4:] == sorted(linear[4:], reverse=True)
    assert flat_rate(5, 10, warmup_steps=1, decay_share=0.0) == 1.0
    assert flat_rate(10, 10, warmup_steps=1, decay_share=0.5) == pytest.approx(0.02)
    assert cosine_rate(0.05, warmup=0.1) == pytest.approx(0.5)
    assert cosine_rate(0.1, warmup=0.1) == 1.0
    assert cosine_rate(1.0, warmup=0.1) == pytest.approx(0.02)
