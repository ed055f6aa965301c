"""An evaluation's outcome as a JSON file, plots and pictures of the worst groups.

Owns the keys of the report and the names of the files. Nothing here computes a metric; charts are
in charts.py, the page for a terminal in page.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from PIL import Image

from calico_model import overlay
from calico_model.evaluation import charts
from calico_model.evaluation.bootstrap import Metric
from calico_model.evaluation.outcome import (
    BLOCKS,
    HEADLINE,
    MODES,
    SS_BACKEND,
    EvaluationReport,
    WorstCase,
    nest_block,
)
from calico_model.staging import replace_text
from calico_model.types import RgbImage


def write_report(
    report: EvaluationReport,
    folder: Path,
    *,
    run: dict[str, object] | None = None,
    efficiency: dict[str, float] | None = None,
) -> None:
    """Writes report.json, four charts and one picture per worst group into a folder.

    Args:
        report: the outcome.
        folder: made if missing; files of an earlier report are replaced, its pictures of worst
            groups removed. Five-choice questions, if any were asked, are kept in questions.jsonl.
        run: what the caller knows beside the report: data, weights, options.
        efficiency: seconds and such, measured by the caller.

    Raises:
        CheckpointError: the disk is full or refuses; an older report.json stays as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = as_json(report) | {"efficiency": efficiency or {}}
    document["run"] |= run or {}
    replace_text(folder / "report.json", json.dumps(document, indent=1) + "\n")
    if report.questions:
        lines = [json.dumps(asdict(question)) for question in report.questions]
        replace_text(folder / "questions.jsonl", "\n".join(lines) + "\n")
    for name, draw in charts.CHARTS.items():
        draw(report, folder / name)
    worst = {
        folder / f"worst_{rank:02d}_group_{case.index}.png": case
        for rank, case in enumerate(report.worst, start=1)
    }
    for earlier in set(folder.glob("worst_*_group_*.png")) - set(worst):
        earlier.unlink()
    for file, case in worst.items():
        Image.fromarray(draw_worst(case)).save(file)


def as_json(report: EvaluationReport) -> dict[str, Any]:
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
        **{block: _nested(nest_block(block, report.blocks)) for block in BLOCKS},
        "reliability": [_finite(asdict(part)) for part in report.reliability],
        "group_sizes": {
            str(size): {
                "groups": own.groups,
                "tasks": {task: _nested(modes) for task, modes in own.tasks.items()},
                "mean": _nested(own.mean),
            }
            for size, own in report.group_sizes.items()
        },
        "oracle": {task: _finite(gains) for task, gains in report.oracle.items()},
        "answers": dict(report.answers),
        "worst": [{"group": case.index, "mIoU": round(case.miou, 2)} for case in report.worst],
        "warnings": list(report.warnings),
    }


def headline(report: EvaluationReport) -> dict[str, Any]:
    """The one line machines read: the mean of the three subtasks in both modes, in percent."""
    modes = {
        mode: _finite({name: report.mean[mode][name].value for name in HEADLINE}) for mode in MODES
    }
    return {"compat": modes["compat"], "strict": modes["strict"], "groups": report.groups}


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


def _metrics(table: dict[str, Metric]) -> dict[str, Any]:
    return {name: _finite(asdict(metric)) for name, metric in table.items()}


def _nested(table: Mapping[str, object]) -> dict[str, Any]:
    """Tables of tables of metrics as plain JSON values."""
    return {
        name: _finite(asdict(inner))
        if isinstance(inner, Metric)
        else _nested(cast(Mapping[str, object], inner))
        for name, inner in table.items()
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Rounds to 2 places; NaN becomes null, because JSON has no word for it."""
    return {
        name: (None if math.isnan(value) else round(value, 2)) if type(value) is float else value
        for name, value in values.items()
    }
