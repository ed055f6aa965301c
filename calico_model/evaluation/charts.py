"""The metrics of a report as bars with intervals, beside the figures of the paper.

Uses matplotlib's Figure directly: no pyplot, so no window system and no global state.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from calico_model.evaluation.outcome import HEADLINE, SUBTASKS, Report
from calico_model.types import RegionKind

PAPER = {
    RegionKind.COMMON_OBJECT: (75.2, 69.2, 78.5, 93.7, 93.4),
    RegionKind.COMMON_PART: (56.9, 38.4, 51.9, 74.4, 64.4),
    RegionKind.UNIQUE_PART: (59.1, 30.2, 48.8, 80.1, 73.4),
}
"""CALICO-7B on MixedParts (paper, supplement table 5), in the order of `HEADLINE`."""

_COLOURS = {"compat": "#2f6fb4", "strict": "#9dc1e3"}
_NOTE = (
    "Bars: this model on this data, 95 % bootstrap interval over groups. Diamonds: CALICO-7B on "
    "MixedParts photographs, with\nsentence embeddings where this report compares spelling. "
    "Compare compat bars with diamonds, and only as a landmark."
)


def metric_bars(report: Report, path: Path) -> None:
    """Saves one panel per subtask: compat and strict bars, and the paper's row as diamonds."""
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    panels = figure.subplots(1, len(SUBTASKS), sharey=True)
    for axes, kind in zip(panels, SUBTASKS, strict=True):
        _panel(axes, report, kind)
    panels[0].set_ylabel("percent")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=3, frameon=False)
    figure.suptitle(f"{report.model_version}, {report.groups} groups", x=0.01, ha="left")
    figure.supxlabel(_NOTE, fontsize=8, x=0.01, ha="left")
    figure.savefig(path, dpi=120)


def _panel(axes: Axes, report: Report, kind: RegionKind) -> None:
    places = np.arange(len(HEADLINE), dtype=np.float64)
    for shift, mode in ((-0.2, "compat"), (0.2, "strict")):
        metrics = [report.tasks[kind][mode][name] for name in HEADLINE]
        values = np.nan_to_num([metric.value for metric in metrics])
        below = np.nan_to_num([metric.value - metric.lo for metric in metrics])
        above = np.nan_to_num([metric.hi - metric.value for metric in metrics])
        # A bootstrap interval need not hold its value; matplotlib wants lengths, not signs.
        spread = np.clip([below, above], 0, None)
        axes.bar(places + shift, values, 0.38, color=_COLOURS[mode], label=mode)
        axes.errorbar(places + shift, values, spread, fmt="none", ecolor="#222222", capsize=2)
    axes.plot(places, PAPER[kind], "D", color="#c0392b", markersize=5, label="CALICO-7B, paper")
    axes.set_title(kind.replace("_", " "))
    axes.set_xticks(places, HEADLINE)
    axes.set_ylim(0, 100)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
