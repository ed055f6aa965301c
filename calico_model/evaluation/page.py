"""One page of text about an evaluation, for a terminal. Owns wording and layout of the tables."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table

from calico_model.evaluation import annotator, calibration, naming, structure
from calico_model.evaluation.bootstrap import Metric
from calico_model.evaluation.charts import PAPER
from calico_model.evaluation.outcome import (
    CONSISTENCY_WAYS,
    EDIT_RATIO,
    HEADLINE,
    MODES,
    OBJECT_ACCURACY,
    SUBTASKS,
    EvaluationReport,
)
from calico_model.evaluation.partonomy import FORCED_MODES, MASK_METRICS, MASK_MODES, TASKS
from calico_model.evaluation.quiz import ACCURACIES, GAIN, OBJECT_TASKS, PART_TASKS
from calico_model.evaluation.structure import PAIR_METRICS

_BESIDE = ("AP50_cls", "S-IoU_norm", "gIoU_micro", "gIoU_macro", "cIoU", "PQ")
_LABEL_ROWS = 8
_RANDOM_CHOICE = 20.0


def page(report: EvaluationReport, *, first: str = "strict") -> RenderableType:
    """One page of text.

    Args:
        report: the outcome.
        first: the table shown first: "strict", "compat" or "partonomy".
    """
    tables = [_mode_table(report, mode) for mode in sorted(MODES, key=lambda mode: mode != first)]
    parts = [_partonomy_table(report, teacher_first=first == "partonomy"), *_choice_tables(report)]
    tables = [*parts, *tables] if first == "partonomy" else [*tables, *parts]
    return Group(
        *tables,
        _beside_table(report),
        _block_table(report),
        *_size_tables(report),
        *_consistency_tables(report),
        _label_table(report),
        *(f"! {note}" for note in report.warnings),
    )


def _mode_table(report: EvaluationReport, mode: str) -> Table:
    """Headline metrics with intervals, and the paper's means beside compat."""
    explained = {
        "strict": "strict: missing and extra regions cost",
        "compat": "compat: as the released GLaMM evaluation counts",
    }
    table = _table(f"{explained[mode]} (percent, 95 % interval over groups)", "subtask", HEADLINE)
    for kind in SUBTASKS:
        measured = report.tasks[kind][mode]
        table.add_row(_words(kind), *(_cell(measured[name]) for name in HEADLINE))
    table.add_section()
    table.add_row("mean", *(_cell(report.mean[mode][name]) for name in HEADLINE), style="bold")
    if mode == "compat":
        paper = [np.mean([row[i] for row in PAPER.values()]) for i in range(len(HEADLINE))]
        table.add_row("CALICO-7B, MixedParts", *(f"{value:.1f}" for value in paper), style="dim")
    return table


def _partonomy_table(report: EvaluationReport, *, teacher_first: bool) -> Table:
    """Masks under every protocol that was asked for, and the names of parts."""
    modes = MASK_MODES if teacher_first else (*MASK_MODES[2:], *FORCED_MODES)
    table = _table(
        "part questions (percent, 95 % interval over groups); teacher: as the released code counts",
        "task",
        ("masks", *MASK_METRICS, "named P", "named R", "exact"),
    )
    for task in TASKS:
        text = [
            _short(report.blocks["partonomy", task, "text", name])
            for name in ("part_precision", "part_recall", "exact")
        ]
        for mode in modes:
            measured = [report.blocks["partonomy", task, mode, name] for name in MASK_METRICS]
            if any(metric.n for metric in measured):
                names = text if mode == "end2end" else ["", "", ""]
                table.add_row(_words(task), mode, *map(_cell, measured), *names)
        table.add_section()
    table.caption = f"objects named right in part answers: {_cell(_object_accuracy(report))}"
    return table


def _choice_tables(report: EvaluationReport) -> list[Table]:
    """Five choices, if any were asked."""
    table = _table(
        f"five choices, by likelihood (percent; {_RANDOM_CHOICE:.0f} is chance)",
        "task",
        (*(name.removeprefix("accuracy_") for name in ACCURACIES), GAIN, "n"),
    )
    for task in (*PART_TASKS, *OBJECT_TASKS):
        accuracies = [report.blocks["partonomy", task, "choices", name] for name in ACCURACIES]
        gain = report.blocks.get(("partonomy", task, "choices", GAIN))
        if accuracies[0].n:
            cells = [*map(_cell, accuracies), _cell(gain) if gain else "", str(accuracies[0].n)]
            table.add_row(_words(task), *cells)
    return [table] if table.rows else []


def _beside_table(report: EvaluationReport) -> Table:
    """Everything else worth a line per subtask, strict."""
    table = _table(
        "beside (strict); gains: points of PQ if labels or masks were true",
        "subtask",
        (*_BESIDE, *PAIR_METRICS, "PQ: labels", "PQ: masks"),
    )
    for kind in SUBTASKS:
        measured, oracle = report.tasks[kind]["strict"], report.oracle[kind]
        cells = [_short(measured.get(name)) for name in (*_BESIDE, *PAIR_METRICS)]
        gains = [f"{float(oracle[f'PQ_gain_oracle_{half}']):+.1f}" for half in ("label", "mask")]
        table.add_row(_words(kind), *cells, *gains)
    parts = ", ".join(f"{name} {_short(metric)}" for name, metric in report.parts.items())
    counts = ", ".join(f"{name} {count}" for name, count in report.answers.items())
    table.caption = f"{parts}\n{counts}"
    return table


def _block_table(report: EvaluationReport) -> Table:
    """The blocks without subtasks, one figure a row."""
    table = Table(title="vocabulary, structure, annotator, calibration")
    table.add_column("block")
    table.add_column("figure")
    table.add_column("value", justify="right")
    names: dict[str, tuple[str, ...]] = {
        "vocabulary": naming.NAMES,
        "structure": structure.COMPOSITION_METRICS,
        "annotator": (*annotator.TALLIES[:2], EDIT_RATIO),
        "per group": annotator.COUNTS,
        "per region": annotator.CLICKS,
        "calibration": calibration.NAMES,
    }
    for title, wanted in names.items():
        block = "annotator" if title.startswith("per ") else title
        for name in wanted:
            table.add_row(title, name, _short(report.blocks[block, name]))
        table.add_section()
    return table


def _size_tables(report: EvaluationReport) -> list[Table]:
    """Groups by how many images they have, if that differs."""
    if len(report.group_sizes) < 2:
        return []
    table = _table(
        "by number of images, mean of the subtasks (percent)",
        "images",
        ("groups", *(f"{mode} {name}" for mode in MODES for name in ("mIoU", "AP50", "Recall"))),
    )
    for size, own in report.group_sizes.items():
        cells = [own.mean[mode][name] for mode in MODES for name in ("mIoU", "AP50", "Recall")]
        table.add_row(str(size), str(own.groups), *map(_short, cells))
    return [table]


def _consistency_tables(report: EvaluationReport) -> list[Table]:
    """The same groups asked differently, if they were."""
    table = _table(
        "the same group asked differently (percent)", "changed", structure.CONSISTENCY_METRICS
    )
    for way in CONSISTENCY_WAYS:
        measured = [
            report.blocks["consistency", way, name] for name in structure.CONSISTENCY_METRICS
        ]
        if any(metric.n for metric in measured):
            table.add_row(way, *map(_cell, measured))
    return [table] if table.rows else []


def _label_table(report: EvaluationReport) -> Table:
    """The most frequent labels of each subtask."""
    table = Table(title=f"labels (the {_LABEL_ROWS} most frequent of each subtask; all in report)")
    for name in ("subtask", "label", "support", "mIoU", "found", "named right"):
        table.add_column(name, justify="left" if name in ("subtask", "label") else "right")
    for task, labels in report.labels.items():
        for label, score in list(labels.items())[:_LABEL_ROWS]:
            named = "-" if math.isnan(score.named) else f"{score.named:.1f}"
            table.add_row(
                _words(task),
                label,
                str(score.support),
                f"{score.miou:.1f}",
                f"{score.recall:.1f}",
                named,
            )
        table.add_section()
    return table


def _object_accuracy(report: EvaluationReport) -> Metric:
    return report.blocks[OBJECT_ACCURACY]


def _table(title: str, first: str, columns: Iterable[str]) -> Table:
    table = Table(title=title)
    table.add_column(first)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _words(name: str) -> str:
    return name.replace("_", " ")


def _cell(metric: Metric) -> str:
    if math.isnan(metric.value):
        return "-"
    return f"{metric.value:.1f} [{metric.lo:.1f}, {metric.hi:.1f}]"


def _short(metric: Metric | None) -> str:
    return "-" if metric is None or math.isnan(metric.value) else f"{metric.value:.1f}"
