"""An evaluation's outcome as a page, a JSON file, a plot and pictures of the worst groups.

Owns wording, layout and file names. Nothing here computes a metric; charts are in charts.py.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Group, RenderableType
from rich.table import Table

from calico_model import overlay
from calico_model.evaluation import charts
from calico_model.evaluation.bootstrap import Metric
from calico_model.evaluation.outcome import (
    HEADLINE,
    MODES,
    SS_BACKEND,
    SUBTASKS,
    Report,
    WorstCase,
)
from calico_model.evaluation.structure import PAIR_METRICS
from calico_model.types import RgbImage

_BESIDE = ("AP50_cls", "S-IoU_norm", "gIoU_micro", "gIoU_macro", "cIoU", "PQ")
_LABEL_ROWS = 8


def write_report(
    report: Report,
    folder: Path,
    *,
    run: dict[str, object] | None = None,
    efficiency: dict[str, float] | None = None,
) -> None:
    """Writes report.json, metrics.png and one picture per worst group into a folder.

    Args:
        report: the outcome.
        folder: made if missing; files of the same names are replaced.
        run: what the caller knows beside the report: data, weights, options.
        efficiency: seconds and such, measured by the caller.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = as_json(report) | {"efficiency": efficiency or {}}
    document["run"] |= run or {}
    (folder / "report.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    charts.metric_bars(report, folder / "metrics.png")
    for rank, case in enumerate(report.worst, start=1):
        name = f"worst_{rank:02d}_group_{case.index}.png"
        Image.fromarray(draw_worst(case)).save(folder / name)


def as_json(report: Report) -> dict[str, Any]:
    """The report as plain JSON values; what could not be measured is null."""
    return {
        "run": {
            "model_version": report.model_version,
            "data_sha256": report.data_sha256,
            "groups": report.groups,
            "images": report.images,
            "bootstrap": {"resamples": report.resamples, "seed": report.seed, "interval": 0.95},
            "backends": {"ss_backend": SS_BACKEND},
            "compat": "glamm",
            "unit": "percent",
        },
        "tasks": {
            task: {mode: _metrics(table) for mode, table in modes.items()}
            for task, modes in report.tasks.items()
        },
        "mean": {mode: _metrics(table) for mode, table in report.mean.items()},
        "parts": _metrics(report.parts),
        "labels": {
            task: {label: _finite(asdict(score)) for label, score in table.items()}
            for task, table in report.labels.items()
        },
        "oracle": {task: _finite(gains) for task, gains in report.oracle.items()},
        "answers": dict(report.answers),
        "worst": [{"group": case.index, "mIoU": round(case.miou, 2)} for case in report.worst],
        "warnings": list(report.warnings),
    }


def headline(report: Report) -> dict[str, Any]:
    """The one line machines read: the mean of the three subtasks in both modes, in percent."""
    modes = {
        mode: _finite({name: report.mean[mode][name].value for name in HEADLINE}) for mode in MODES
    }
    return {"compat": modes["compat"], "strict": modes["strict"], "groups": report.groups}


def page(report: Report, *, first: str = "strict") -> RenderableType:
    """One page of text for a terminal.

    Args:
        report: the outcome.
        first: the mode shown first.
    """
    modes = sorted(MODES, key=lambda mode: mode != first)
    return Group(
        *(_mode_table(report, mode) for mode in modes),
        _beside_table(report),
        _label_table(report),
        *(f"! {note}" for note in report.warnings),
    )


def draw_worst(case: WorstCase) -> RgbImage:
    """Truth above prediction, for one group."""
    group = case.labeled.group
    rows = [
        overlay.draw_overlay(group, case.labeled.parts),
        overlay.draw_overlay(group, case.prediction),
    ]
    titles = [
        f"truth, group {case.index} ({', '.join(group.ids)})",
        f"prediction, strict mIoU {case.miou:.1f} %",
    ]
    return overlay.contact_sheet(rows, titles=titles, height=400)


def _mode_table(report: Report, mode: str) -> Table:
    """Headline metrics with intervals, and the paper's means beside compat."""
    explained = {
        "strict": "strict: missing and extra regions cost",
        "compat": "compat: as the released GLaMM evaluation counts",
    }
    table = Table(title=f"{explained[mode]} (percent, 95 % interval over groups)")
    table.add_column("subtask")
    for name in HEADLINE:
        table.add_column(name, justify="right")
    for kind in SUBTASKS:
        measured = report.tasks[kind][mode]
        table.add_row(kind.replace("_", " "), *(_cell(measured[name]) for name in HEADLINE))
    table.add_section()
    table.add_row("mean", *(_cell(report.mean[mode][name]) for name in HEADLINE), style="bold")
    if mode == "compat":
        paper = [np.mean([row[i] for row in charts.PAPER.values()]) for i in range(len(HEADLINE))]
        table.add_row("CALICO-7B, MixedParts", *(f"{value:.1f}" for value in paper), style="dim")
    return table


def _beside_table(report: Report) -> Table:
    """Everything else worth a line per subtask, strict."""
    table = Table(title="beside (strict); gains: points of PQ if labels or masks were true")
    for name in ("subtask", *_BESIDE, *PAIR_METRICS, "PQ: labels", "PQ: masks"):
        table.add_column(name, justify="left" if name == "subtask" else "right")
    for kind in SUBTASKS:
        measured, oracle = report.tasks[kind]["strict"], report.oracle[kind]
        cells = [_short(measured.get(name)) for name in (*_BESIDE, *PAIR_METRICS)]
        gains = [f"{float(oracle[f'PQ_gain_oracle_{half}']):+.1f}" for half in ("label", "mask")]
        table.add_row(kind.replace("_", " "), *cells, *gains)
    parts = "  ".join(f"{name} {_short(metric)}" for name, metric in report.parts.items())
    counts = "  ".join(f"{name} {count}" for name, count in report.answers.items())
    table.caption = f"{parts}\n{counts}"
    return table


def _label_table(report: Report) -> Table:
    """The most frequent labels of each subtask."""
    table = Table(title=f"labels (the {_LABEL_ROWS} most frequent of each subtask; all in report)")
    for name in ("subtask", "label", "support", "mIoU", "found", "named right"):
        table.add_column(name, justify="left" if name in ("subtask", "label") else "right")
    for task, labels in report.labels.items():
        for label, score in list(labels.items())[:_LABEL_ROWS]:
            named = "-" if math.isnan(score.named) else f"{score.named:.1f}"
            table.add_row(
                task.replace("_", " "),
                label,
                str(score.support),
                f"{score.miou:.1f}",
                f"{score.recall:.1f}",
                named,
            )
        table.add_section()
    return table


def _cell(metric: Metric) -> str:
    if math.isnan(metric.value):
        return "-"
    return f"{metric.value:.1f} [{metric.lo:.1f}, {metric.hi:.1f}]"


def _short(metric: Metric | None) -> str:
    return "-" if metric is None or math.isnan(metric.value) else f"{metric.value:.1f}"


def _metrics(table: dict[str, Metric]) -> dict[str, Any]:
    return {name: _finite(asdict(metric)) for name, metric in table.items()}


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Rounds to 2 places; NaN becomes null, because JSON has no word for it."""
    return {
        name: (None if math.isnan(value) else round(value, 2)) if type(value) is float else value
        for name, value in values.items()
    }
