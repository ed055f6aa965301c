"""From outcomes to a table, a line for machines and a picture."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from calico_model.evaluation.bootstrap import Estimate
from calico_model.evaluation.outcome import HEADLINE, MODES
from research.ablation.comparison import compare_rows
from research.ablation.plan import COMPONENTS, FULL, PLACEMENT, Start
from research.ablation.report import markdown, page, write_study
from research.ablation.trial import TrialOutcome

NOISE = np.linspace(-0.1, 0.1, 101)
"""Luck of the draw: which groups are in a resample moves all rows alike."""


def outcome(key: str, value: float, *, seed: int = 27, extra: float = 0.0) -> TrialOutcome:
    copies = value + NOISE + extra * np.cos(37 * NOISE)
    table = {name: Estimate(value, copies, 300) for name in HEADLINE}
    return TrialOutcome(key, seed, 1000, dict.fromkeys(MODES, table))


def outcomes(seed: int = 27, shift: float = 0.0) -> dict[tuple[str, int], TrialOutcome]:
    values = {row.key: 0.5 - 0.01 * k for k, row in enumerate(reversed(COMPONENTS))}
    return {
        (key, seed): outcome(key, value + shift, seed=seed, extra=0.002 * (key != FULL))
        for key, value in values.items()
    }


def test_differences_are_paired_by_group() -> None:
    lines = {line.row.key: line for line in compare_rows(COMPONENTS, (27,), outcomes())}
    line = lines["without_cem_and_cam"]
    figure, behind = line.figures["compat"]["mIoU"], line.behind["compat"]["mIoU"]
    assert figure.value == pytest.approx(49.0)
    assert figure.hi - figure.lo > 15
    assert behind.value == pytest.approx(1.0)
    assert 0.7 < behind.lo < behind.hi < 1.3  # what moves both rows alike does not count
    assert lines[FULL].behind["strict"]["SS"].value == 0


def test_seeds_give_a_mean_and_a_spread() -> None:
    both = outcomes(27) | outcomes(28, shift=0.04)
    line = compare_rows(COMPONENTS, (27, 28), both)[-1]
    assert line.seeds == 2
    assert line.figures["strict"]["mIoU"].value == pytest.approx(52.0)
    assert line.spread["strict"]["mIoU"] == pytest.approx(100 * 0.04 / np.sqrt(2))
    assert np.isnan(compare_rows(COMPONENTS, (27,), both)[-1].spread["strict"]["mIoU"])


def test_the_line_for_machines_has_one_key_per_row(tmp_path: Path) -> None:
    lines = compare_rows(COMPONENTS, (27,), outcomes())
    verdict = json.loads(
        json.dumps(
            write_study(
                lines, tmp_path, stem="ablation", title="t", start=Start.SCRATCH, run={"steps": 3}
            )
        )
    )
    assert list(verdict) == [row.key for row in COMPONENTS]
    assert verdict[FULL]["compat"] == dict.fromkeys(HEADLINE, 50.0)
    assert verdict["without_cem_and_cam"]["full_minus_row"]["compat"]["mIoU"]["value"] == 1.0
    document = json.loads((tmp_path / "ablation.json").read_text())
    assert document["rows"]["without_qformer"]["paper"]["AP50"] == 38.5
    assert document["run"] == {"steps": 3}
    with Image.open(tmp_path / "ablation.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10


def test_what_could_not_be_measured_is_null(tmp_path: Path) -> None:
    there = outcomes()
    nothing = Estimate(float("nan"), np.full(101, np.nan), 0)
    blank = dict.fromkeys(MODES, dict.fromkeys(HEADLINE, nothing))
    there["without_dino", 27] = TrialOutcome("without_dino", 27, 1000, blank)
    lines = compare_rows(COMPONENTS, (27,), there)
    verdict = write_study(lines, tmp_path, stem="ablation", title="t", start=Start.SCRATCH, run={})
    assert verdict["without_dino"]["strict"]["mIoU"] is None
    assert "NaN" not in (tmp_path / "ablation.json").read_text()


def test_pages_show_every_row_beside_the_papers() -> None:
    lines = compare_rows(COMPONENTS, (27,), outcomes())
    text = io.StringIO()
    Console(file=text, width=160).print(page(lines))
    document = markdown(lines, stem="ablation", title="300 pairs", start=Start.SCRATCH)
    for shown in (text.getvalue(), document):
        assert all(row.title in shown for row in COMPONENTS)
        assert "+1.0 [+0.8, +1.2]" in shown
        assert "38.5" in shown
    assert "| w/o Q-Former | 59.2 | 38.5 | 44.8 | 64.5 | 55.6 | +4.5 | +14.9 |" in document


def test_placement_has_no_figures_of_the_paper(tmp_path: Path) -> None:
    there = {(row.key, 27): outcome(row.key, 0.4) for row in PLACEMENT}
    lines = compare_rows(PLACEMENT, (27,), there)
    write_study(lines, tmp_path, stem="placement", title="t", start=Start.SCRATCH, run={})
    assert "paper" not in (tmp_path / "placement.md").read_text()
    assert (tmp_path / "placement.png").is_file()
