"""A finished ablation as a page, a JSON file, a table in Markdown and a plot.

Owns wording, layout and file names. Nothing here computes a figure; the plot is in chart.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from calico_model.evaluation.bootstrap import Metric
from calico_model.evaluation.outcome import HEADLINE, MODES
from research.ablation.chart import difference_dots
from research.ablation.comparison import Line
from research.ablation.plan import Start
from research.ablation.rows import FULL

_COMPARED = ("mIoU", "Recall")
_COLUMNS = ("row", *HEADLINE, *(f"full - row, {name}" for name in _COMPARED))
_HEAD = (f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}")
_PROTOCOL = (
    "Every row keeps the same frozen encoders and begins with the same mask decoder. Each [SEG]",
    "is pulled towards the prompt the finished weights have for its part, as when they were made.",
    "The language side (LLM, Q-Former, queries, projections, CEM, CAMs)",
    "{}.",
    "All rows see the same pairs and questions in the same order and are judged on the same",
    "held-out pairs.",
)
_BEGINS = {
    Start.SCRATCH: "is new and begins with the same values wherever rows share a part",
    Start.LANGUAGE: "begins as in finished weights, but for CEM and CAMs, which are new",
}
_NOTE = (
    "full - row in points; [95 % interval, bootstrap paired by group]; * where it leaves out zero. "
    "The interval is over held-out groups, not over trainings: only several seeds show those."
)


def write_study(
    lines: Sequence[Line],
    folder: Path,
    *,
    stem: str,
    title: str,
    start: Start,
    run: dict[str, object],
) -> dict[str, Any]:
    """Writes a table as JSON, as Markdown and as a plot.

    Args:
        lines: the table.
        folder: there already.
        stem: name of the three files.
        title: what was measured, in a line.
        start: where the language side began.
        run: what the caller knows beside the figures: weights, steps, seeds.

    Returns:
        The line machines read: one key per row of the table.
    """
    rows = {line.row.key: line_as_json(line) for line in lines}
    document = {"run": run, "unit": "percent", "rows": rows}
    (folder / f"{stem}.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    text = markdown(lines, stem=stem, title=title, start=start)
    (folder / f"{stem}.md").write_text(text, "utf-8")
    difference_dots(lines, folder / f"{stem}.png", title=title)
    return {
        key: {mode: {name: figure["value"] for name, figure in row[mode].items()} for mode in MODES}
        | {"full_minus_row": row["full_minus_row"], "seeds": row["seeds"]}
        for key, row in rows.items()
    }


def line_as_json(line: Line) -> dict[str, Any]:
    """One row as plain JSON values; what could not be measured is null."""
    return {
        "title": line.row.title,
        "meaning": line.row.meaning,
        "seeds": line.seeds,
        "trained": line.trained,
        "paper": None
        if line.row.paper is None
        else dict(zip(HEADLINE, line.row.paper, strict=True)),
        **{
            mode: {name: _interval(line.figures[mode][name]) for name in HEADLINE} for mode in MODES
        },
        "full_minus_row": {
            mode: {name: _interval(line.behind[mode][name]) for name in HEADLINE} for mode in MODES
        },
        "spread": {
            mode: {name: _finite(line.spread[mode][name]) for name in HEADLINE} for mode in MODES
        },
    }


def page(lines: Sequence[Line]) -> RenderableType:
    """Both modes for a terminal, the paper's row beneath each of ours where it has one."""
    return Group(*(_mode_table(lines, mode) for mode in ("compat", "strict")))


def markdown(lines: Sequence[Line], *, stem: str, title: str, start: Start) -> str:
    """A document: how it was measured, the plot, our table in both modes, the paper's.

    Args:
        lines: the table.
        stem: name of the plot beside the document.
        title: what was measured, in a line.
        start: where the language side began.
    """
    protocol = (sentence.format(_BEGINS[start]) for sentence in _PROTOCOL)
    rows = [f"* {line.row.title}: {line.row.meaning}" for line in lines]
    text = ["# What each part is worth", "", f"{title}.", *protocol, "", *rows, ""]
    text += [f"![full minus row]({stem}.png)", ""]
    for mode in ("compat", "strict"):
        text += [f"{mode}, mean of the three subtasks, percent:", "", *_HEAD]
        for line in lines:
            cells = [_figure(line, mode, name) for name in HEADLINE]
            cells += [_behind(line, mode, name) for name in _COMPARED]
            text.append(_markdown_row(line.row.title, cells))
        text.append("")
    full = next((line.row.paper for line in lines if line.row.key == FULL), None)
    if full is not None:
        text += ["The paper's (CALICO-7B on MixedParts, table 2):", "", *_HEAD]
        for line in lines:
            if line.row.paper is not None:
                of_full = dict(zip(HEADLINE, full, strict=True))
                own = dict(zip(HEADLINE, line.row.paper, strict=True))
                cells = [f"{value:.1f}" for value in own.values()]
                is_full = line.row.key == FULL
                lost = [f"{of_full[name] - own[name]:+.1f}" for name in _COMPARED]
                cells += ["", ""] if is_full else lost
                text.append(_markdown_row(line.row.title, cells))
        text.append("")
    return "\n".join([*text, _NOTE, ""])


def _markdown_row(first: str, cells: Sequence[str]) -> str:
    return f"| {' | '.join([first, *cells])} |"


def _mode_table(lines: Sequence[Line], mode: str) -> Table:
    explained = {
        "strict": "strict: missing and extra regions cost",
        "compat": "compat: as the released GLaMM evaluation counts",
    }
    table = Table(title=f"{explained[mode]} (percent, mean of the three subtasks)")
    table.add_column("row")
    for name in _COLUMNS[1:]:
        table.add_column(name, justify="right")
    for line in lines:
        figures = [_figure(line, mode, name) for name in HEADLINE]
        behind = [_behind(line, mode, name) for name in _COMPARED]
        style = "bold" if line.row.key == FULL else ""
        table.add_row(line.row.title, *figures, *behind, style=style)
        if mode == "compat" and line.row.paper is not None:
            table.add_row("  paper, 7B", *(f"{v:.1f}" for v in line.row.paper), style="dim")
    table.caption = _NOTE
    return table


def _figure(line: Line, mode: str, name: str) -> str:
    value, spread = line.figures[mode][name].value, line.spread[mode][name]
    if math.isnan(value):
        return "-"
    return f"{value:.1f}" if math.isnan(spread) else f"{value:.1f} ± {spread:.1f}"


def _behind(line: Line, mode: str, name: str) -> str:
    metric = line.behind[mode][name]
    if line.row.key == FULL:
        return ""
    if math.isnan(metric.value):
        return "-"
    sure = "*" if metric.lo > 0 or metric.hi < 0 else ""
    return f"{metric.value:+.1f} [{metric.lo:+.1f}, {metric.hi:+.1f}]{sure}"


def _interval(metric: Metric) -> dict[str, float | None]:
    return {
        "value": _finite(metric.value),
        "lo": _finite(metric.lo),
        "hi": _finite(metric.hi),
    }


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 2)
