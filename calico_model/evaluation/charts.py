"""The figures of a report as pictures: metrics beside the paper's, labels, scores, group sizes.

Uses matplotlib's Figure directly: no pyplot, so no window system and no global state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from calico_model.evaluation.outcome import HEADLINE, SUBTASKS, EvaluationReport
from calico_model.types import RegionKind

PAPER = {
    RegionKind.COMMON_OBJECT: (75.2, 69.2, 78.5, 93.7, 93.4),
    RegionKind.COMMON_PART: (56.9, 38.4, 51.9, 74.4, 64.4),
    RegionKind.UNIQUE_PART: (59.1, 30.2, 48.8, 80.1, 73.4),
}
"""CALICO-7B on MixedParts (paper, supplement table 5), in the order of `HEADLINE`."""

_COLOURS = {"compat": "#2f6fb4", "strict": "#9dc1e3"}
_LABELS = 18
_NOTE = (
    "Bars: this model on this data, 95 % bootstrap interval over groups. Diamonds: CALICO-7B on "
    "MixedParts photographs, with\nsentence embeddings where this report compares spelling. "
    "Compare compat bars with diamonds, and only as a landmark."
)


def metric_bars(report: EvaluationReport, path: Path) -> None:
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


def _panel(axes: Axes, report: EvaluationReport, kind: RegionKind) -> None:
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


def label_bars(report: EvaluationReport, path: Path) -> None:
    """Saves one panel per subtask: mIoU and share found of its most frequent labels."""
    figure = Figure(figsize=(13, 6), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(SUBTASKS)), SUBTASKS, strict=True):
        shown = list(report.labels[kind].items())[:_LABELS]
        places = np.arange(len(shown), dtype=np.float64)
        for shift, key, colour in ((-0.2, "miou", "#2f6fb4"), (0.2, "recall", "#9dc1e3")):
            values = [getattr(score, key) for _, score in shown]
            name = {"miou": "mIoU, same label", "recall": "found, any label"}[key]
            axes.barh(places + shift, values, 0.38, color=colour, label=name)
        axes.set_yticks(places, [f"{label} ({score.support})" for label, score in shown])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_title(kind.replace("_", " "))
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        if not shown:
            axes.text(50, 0, "no label with 5 regions", ha="center")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=2, frameon=False)
    figure.suptitle("labels by frequency (support), percent", x=0.01, ha="left")
    figure.savefig(path, dpi=120)


def reliability_diagram(report: EvaluationReport, path: Path) -> None:
    """Saves how often proposals of each score are right, and how many there are."""
    figure = Figure(figsize=(6, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    known = [part for part in report.reliability if part.n]
    width = 1 / max(1, len(report.reliability))
    upper.plot((0, 1), (0, 1), "--", color="#888888", label="a score that keeps its word")
    upper.bar(
        [part.lo + width / 2 for part in known],
        [part.accuracy for part in known],
        0.92 * width,
        color="#9dc1e3",
    )
    upper.plot(
        [part.confidence for part in known],
        [part.accuracy for part in known],
        "o-",
        color="#2f6fb4",
        label="share of right proposals",
    )
    upper.set_ylim(0, 1)
    upper.set_ylabel("IoU >= 0.5 and right name")
    upper.legend(frameon=False, loc="upper left")
    lower.bar([p.lo + width / 2 for p in known], [p.n for p in known], 0.92 * width, color="#888")
    lower.set_ylabel("proposals")
    lower.set_xlabel("score")
    lower.set_xlim(0, 1)
    ece, auroc = (report.blocks["calibration", name].value for name in ("ECE", "AUROC"))
    figure.suptitle(f"reliability of scores: ECE {ece:.1f} %, AUROC {auroc:.1f} %")
    figure.savefig(path, dpi=120)


def size_bars(report: EvaluationReport, path: Path) -> None:
    """Saves strict and compat means against the number of images of a group, with intervals."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    shown = ("mIoU", "AP50", "Recall")
    panels = figure.subplots(1, len(shown), sharey=True)
    sizes = list(report.group_sizes)
    places = np.arange(len(sizes), dtype=np.float64)
    for axes, name in zip(panels, shown, strict=True):
        for shift, mode in ((-0.2, "compat"), (0.2, "strict")):
            metrics = [report.group_sizes[size].mean[mode][name] for size in sizes]
            known = [(k, m) for k, m in enumerate(metrics) if not math.isnan(m.value)]
            values = [m.value for _, m in known]
            spread = [[m.value - m.lo for _, m in known], [m.hi - m.value for _, m in known]]
            at = [places[k] + shift for k, _ in known]
            axes.bar(at, values, 0.38, color=_COLOURS[mode], label=mode)
            axes.errorbar(
                at, values, np.clip(spread, 0, None), fmt="none", ecolor="#222222", capsize=2
            )
        axes.set_title(f"{name}, mean of subtasks")
        axes.set_xticks(places, [f"{s}\nn={report.group_sizes[s].groups}" for s in sizes])
        axes.set_xlabel("images in the group")
        axes.set_ylim(0, 100)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    panels[0].set_ylabel("percent")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=120)


CHARTS: dict[str, Callable[[EvaluationReport, Path], None]] = {
    "metrics.png": metric_bars,
    "labels.png": label_bars,
    "reliability.png": reliability_diagram,
    "group_sizes.png": size_bars,
}
"""File name -> what draws it."""
