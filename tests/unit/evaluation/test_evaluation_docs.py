"""docs/evaluation.md defines every figure of a report and names what can be asked for."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from backend.cli import evaluate as command
from backend.cli import labeled_data
from calico_model.evaluation import charts, gate, metrics, partonomy, structure
from calico_model.evaluation.outcome import BLOCKS, METRIC_PATHS

PAGE = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text()
PROSE = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
WORDS = {word for quoted in re.findall(r"`([^`]+)`", PROSE) for word in re.split(r"[.\s]+", quoted)}
FIGURES = {
    *metrics.STRICT,
    *metrics.COMPAT,
    *structure.PAIR_METRICS,
    *structure.part_tallies((), ()),
    *(path[-1] for path in METRIC_PATHS),
}


@pytest.mark.parametrize("figure", sorted(FIGURES))
def test_every_figure_is_defined(figure: str) -> None:
    is_other_reading = figure.startswith("chosen") and figure.endswith("_compat")
    assert (figure.removesuffix("_compat") if is_other_reading else figure) in WORDS


def test_every_block_protocol_and_chart_is_described() -> None:
    for name in (*BLOCKS, *partonomy.MASK_MODES, *partonomy.TASKS):
        assert name in WORDS
    for name in charts.CHARTS:
        assert f"`{name}`" in PAGE


def test_examples_use_flags_that_exist() -> None:
    source = inspect.getsource(command) + inspect.getsource(labeled_data)
    for flag in set(re.findall(r"--[a-z][a-z-]+", PAGE)):
        assert f'"{flag}"' in source


def test_named_requirements_exist() -> None:
    section = PAGE[PAGE.index("## `--require`") :]
    names = [name for name in re.findall(r"`([\w.@-]+)`", section) if not name.startswith("-")]
    assert len(names) > 10
    for name in names:
        assert gate.resolve(name)
