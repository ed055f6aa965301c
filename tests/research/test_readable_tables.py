"""The tables of measuring commands at 80 and at 60 columns."""

from __future__ import annotations

import pytest

from backend.learning.schedule import RunState
from research.ablation.comparison import compare_rows
from research.ablation.plan import COMPONENTS
from research.ablation.report import page
from research.bench import gate, parallel, photos
from research.bench.gate_trials import Batch, Trial
from research.simulation import command
from research.simulation.curve import Point, Simulation, sum_up
from tests.readable import WIDTHS, check_readable
from tests.research.ablation.test_comparison import outcomes

at_widths = pytest.mark.parametrize("width", WIDTHS)


@at_widths
def test_simulation(width: int) -> None:
    points = tuple(Point(n, 16.6, 3.3, 100.0, 100.0, 123.0, -12.0, 0.0, "v") for n in (0, 5, 20))
    summary = sum_up([0.0, 1.0], [1.0, 0.0])
    text = check_readable(width, command._table(Simulation(points, summary, summary)))
    assert "old drawings" in text


@at_widths
def test_quality_check_trials(width: int) -> None:
    figures = {"mIoU": [12.3, 45.6], "Recall": [1.8, 100.0]}
    measured = {"held_out": figures, "probe": figures}
    trials = [
        Trial(seed, "ade_appliances_lights", batch, RunState.REJECTED, "", measured, 1.0)
        for seed in range(3)
        for batch in Batch
    ]
    check_readable(width, gate._table(trials))


@at_widths
def test_photographs(width: int) -> None:
    row = {f"recall_after_{n}_corrected_pairs": 12.5 for n in range(12)} | {"none": None}
    check_readable(width, photos._table({"people": row, "vehicles": row}))


@at_widths
def test_ablation(width: int) -> None:
    check_readable(width, page(compare_rows(COMPONENTS, (27,), outcomes())))


@at_widths
def test_parallel_trainings(width: int) -> None:
    step = dict.fromkeys(parallel._COMPARED, 0.123456789)
    check_readable(width, parallel._table([step], [step]))
