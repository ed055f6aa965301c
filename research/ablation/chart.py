"""What each row costs, metric by metric, beside what it cost the paper.

Uses matplotlib's Figure directly: no pyplot, so no window system and no global state.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from calico_model.evaluation.outcome import HEADLINE
from research.ablation.comparison import Line
from research.ablation.rows import FULL

_COLOURS = {"compat": "#2f6fb4", "strict": "#9dc1e3"}
_DOTS = (
    "Dots: full minus row on calico-tiny, 95 % bootstrap interval paired by held-out group; right "
    "of zero, full is better."
)
_DIAMONDS = (
    "\nDiamonds: the same difference in the paper (CALICO-7B on MixedParts, table 2), another "
    "model on other data."
)


def difference_dots(lines: Sequence[Line], path: Path, *, title: str) -> None:
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


def _panel(axes: Axes, lines: Sequence[Line], name: str) -> None:
    places = np.arange(len(lines), dtype=np.float64)
    for shift, mode in ((-0.14, "compat"), (0.14, "strict")):
        metrics = [line.behind[mode][name] for line in lines]
        values = np.array([metric.value for metric in metrics])
        below = np.array([metric.value - metric.lo for metric in metrics])
        above = np.array([metric.hi - metric.value for metric in metrics])
        # A bootstrap interval need not hold its value; matplotlib wants lengths, not signs.
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
