"""A finished ablation as a page, a JSON file, a table in Markdown and a plot.

Owns wording, layout and file names; computes no figure. The plot uses matplotlib's Figure
directly, without pyplot: no window system and no global state.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.table import Table

from calico_model.evaluation.bootstrap import Metric
from calico_model.evaluation.outcome import HEADLINE, MODES
from research.ablation.comparison import ComparedRow
from research.ablation.plan import FULL, Start

_COMPARED = ("mIoU", "Recall")
_COLUMNS = ("row", *HEADLINE, *(f"full - row, {name}" for name in _COMPARED))
_HEAD = (f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}")
_PROTOCOL = (
    "Every row keeps the same frozen encoders and begins with the same mask decoder. Each [SEG]",
    "is pulled towards the prompt the finished weights have for its part, as when they were made.",
    "The language side (LLM, Q-Former, queries, projections, CEM, CAMs)",
    "{}.",
    "All rows see the same pairs and questions in the same order and are judged on the same",
    "pairs kept for testing.",
)
_BEGINS = {
    Start.SCRATCH: "is new and begins with the same values wherever rows share a part",
    Start.LANGUAGE: "begins as in finished weights, but for CEM and CAMs, which are new",
}
_NOTE = (
    "full - row in points; [95 % interval, bootstrap paired by group]; * where it leaves out zero. "
    "The interval is over the groups kept for testing, not over trainings: only several seeds "
    "show the spread of trainings."
)
_COLOURS = {"compat": "#2f6fb4", "strict": "#9dc1e3"}
_DOTS = (
    "Dots: full minus row on calico-tiny, 95 % bootstrap interval paired by group; right "
    "of zero, full is better."
)
_DIAMONDS = (
    "\nDiamonds: the same difference in the paper (CALICO-7B on MixedParts, table 2), another "
    "model on other data."
)


def write_study(
    lines: Sequence[ComparedRow],
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
        start: first values of the language side.
        run: description of the run for the JSON file: weights, steps, seeds.

    Returns:
        The JSON object of the command's last line: one key per row of the table.
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


def line_as_json(line: ComparedRow) -> dict[str, Any]:
    """One row as plain JSON values; null where a figure could not be measured."""
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


def page(lines: Sequence[ComparedRow]) -> RenderableType:
    """Tables of both modes for a terminal; the paper's figures stand beneath each row."""
    return Group(*(_mode_table(lines, mode) for mode in ("compat", "strict")))


def markdown(lines: Sequence[ComparedRow], *, stem: str, title: str, start: Start) -> str:
    """Returns a document: the protocol, the plot, our table in both modes, the paper's table.

    Args:
        lines: the table.
        stem: name of the plot beside the document.
        title: what was measured, in a line.
        start: first values of the language side.
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
                of_row = dict(zip(HEADLINE, line.row.paper, strict=True))
                cells = [f"{value:.1f}" for value in of_row.values()]
                is_full = line.row.key == FULL
                lost = [f"{of_full[name] - of_row[name]:+.1f}" for name in _COMPARED]
                cells += ["", ""] if is_full else lost
                text.append(_markdown_row(line.row.title, cells))
        text.append("")
    return "\n".join([*text, _NOTE, ""])


def _markdown_row(first: str, cells: Sequence[str]) -> str:
    return f"| {' | '.join([first, *cells])} |"


def _mode_table(lines: Sequence[ComparedRow], mode: str) -> Table:
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


def _figure(line: ComparedRow, mode: str, name: str) -> str:
    value, spread = line.figures[mode][name].value, line.spread[mode][name]
    if math.isnan(value):
        return "-"
    return f"{value:.1f}" if math.isnan(spread) else f"{value:.1f} ± {spread:.1f}"


def _behind(line: ComparedRow, mode: str, name: str) -> str:
    metric = line.behind[mode][name]
    if line.row.key == FULL:
        return ""
    if math.isnan(metric.value):
        return "-"
    star = "*" if metric.lo > 0 or metric.hi < 0 else ""
    return f"{metric.value:+.1f} [{metric.lo:+.1f}, {metric.hi:+.1f}]{star}"


def _interval(metric: Metric) -> dict[str, float | None]:
    return {
        "value": _finite(metric.value),
        "lo": _finite(metric.lo),
        "hi": _finite(metric.hi),
    }


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 2)


def difference_dots(lines: Sequence[ComparedRow], path: Path, *, title: str) -> None:
    """Saves one panel per metric: a line per row, compat and strict dots, the paper as diamonds."""
    others = [line for line in lines if line.row.key != FULL]
    full = next((line.row.paper for line in lines if line.row.key == FULL), None)
    figure = Figure(figsize=(14, 1.9 + 0.55 * max(1, len(others))), layout="constrained")
    panels = figure.subplots(1, len(HEADLINE), sharey=True)
    for index, (axes, name) in enumerate(zip(panels, HEADLINE, strict=True)):
        _panel(axes, others, name)
        points = [
            (full[index] - line.row.paper[index], place)
            for place, line in enumerate(others)
            if full is not None and line.row.paper is not None
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "D", color="#c0392b", ms=5, label="paper, 7B")
    panels[0].set_yticks(range(len(others)), [line.row.title for line in others])
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=3, frameon=False)
    figure.suptitle(title, x=0.01, ha="left")
    note = _DOTS if full is None else _DOTS + _DIAMONDS
    figure.supxlabel(note, fontsize=8, x=0.01, ha="left")
    figure.savefig(path, dpi=120)


def _panel(axes: Axes, lines: Sequence[ComparedRow], name: str) -> None:
    places = np.arange(len(lines), dtype=np.float64)
    for shift, mode in ((-0.14, "compat"), (0.14, "strict")):
        metrics = [line.behind[mode][name] for line in lines]
        values = np.array([metric.value for metric in metrics])
        below = np.array([metric.value - metric.lo for metric in metrics])
        above = np.array([metric.hi - metric.value for metric in metrics])
        # A bootstrap interval need not contain its value; matplotlib needs lengths of 0 or more.
        spread = np.clip([below, above], 0, None)
        axes.errorbar(
            values,
            places + shift,
            xerr=spread,
            fmt="o",
            color=_COLOURS[mode],
            markersize=5,
            capsize=2,
            label=mode,
        )
    axes.axvline(0, color="#222222", linewidth=0.8)
    axes.set_title(f"{name}, points", fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
