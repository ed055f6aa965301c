"""Computes metrics with intervals from tallies: subtasks, blocks, group sizes and labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from calico_model.evaluation import bootstrap, calibration
from calico_model.evaluation.bootstrap import Estimate, Metric
from calico_model.evaluation.calibration import Bin
from calico_model.evaluation.cosegmentation import (
    Cosegmentation,
    Entry,
    Estimates,
    mean_of_subtasks,
)
from calico_model.evaluation.metrics import IOU_THRESHOLD
from calico_model.evaluation.outcome import (
    COUNT_METRICS,
    EDIT_RATIO,
    HEADLINE,
    METRIC_PATHS,
    MODES,
    SUBTASKS,
    GroupSize,
    LabelScore,
    MetricPath,
)
from calico_model.evaluation.units import Unit
from calico_model.vocabulary import normalise

LEAST_SUPPORT = 5
"""True regions a label needs to be reported: with fewer, one region more changes its figures."""

Outcomes = list[tuple[int, float, bool]]
"""(group, score, is right) of every proposal."""


def calico_tables(
    calico: Cosegmentation, groups: Iterable[int], counts: NDArray[np.int64]
) -> tuple[dict[str, Estimates], Estimates]:
    """Sums up the three subtasks and their mean over some groups.

    Args:
        calico: all units.
        groups: indices of the groups, as many as `counts` has columns.
        counts: (R, G) from `draw_counts`.
    """
    columns = {group: column for column, group in enumerate(groups)}
    tasks = {str(kind): calico.estimate(kind, columns, counts) for kind in SUBTASKS}
    return tasks, {mode: mean_of_subtasks(tasks.values(), mode) for mode in MODES}


def close_sizes(
    calico: Cosegmentation,
    sizes: Sequence[int],
    overall: tuple[dict[str, Estimates], Estimates],
    resamples: int,
    seed: int,
) -> dict[int, GroupSize]:
    """Sums up the groups of each size, with intervals over those groups alone.

    Args:
        calico: all units.
        sizes: number of images of each group.
        overall: `calico_tables` of all groups; the result if all groups have one size.
        resamples: bootstrap resamples.
        seed: of the bootstrap.
    """
    tables = {}
    for size in sorted(set(sizes)):
        groups = [index for index, own in enumerate(sizes) if own == size]
        tasks, mean = overall
        if len(groups) < len(sizes):
            counts = bootstrap.draw_counts(len(groups), resamples, seed)
            tasks, mean = calico_tables(calico, groups, counts)
        tables[size] = GroupSize(
            groups=len(groups),
            tasks={task: _headline(modes) for task, modes in tasks.items()},
            mean=_headline(mean),
        )
    return tables


def close_blocks(
    tallies: Mapping[MetricPath, Sequence[Entry]],
    samples: Mapping[str, Sequence[tuple[int, float]]],
    outcomes: Outcomes,
    counts: NDArray[np.int64],
) -> tuple[dict[MetricPath, Metric], tuple[Bin, ...]]:
    """Sums up every block beside the subtasks.

    Args:
        tallies: path -> (group, part, whole) entries, pooled.
        samples: annotator metric -> (group, value), of which the median is taken.
        outcomes: of every proposal, for calibration.
        counts: (R, G) from `draw_counts`.

    Returns:
        One metric for every path of a report, and the reliability diagram.
    """
    metrics = {
        path: bootstrap.ratio(tallies.get(path, ()), counts).metric(
            1.0 if path[-1] in COUNT_METRICS else 100.0
        )
        for path in METRIC_PATHS
    }
    path = ("annotator", EDIT_RATIO)
    metrics[path] = bootstrap.median(samples.get(EDIT_RATIO, ()), counts).metric()
    calibrated, bins = _calibrate(outcomes, counts)
    metrics |= {("calibration", name): value.metric() for name, value in calibrated.items()}
    return metrics, bins


def _calibrate(
    outcomes: Outcomes, counts: NDArray[np.int64]
) -> tuple[dict[str, Estimate], tuple[Bin, ...]]:
    group = np.array([index for index, _, _ in outcomes], dtype=np.int64)
    score = np.array([score for _, score, _ in outcomes], dtype=np.float64)
    right = np.array([right for _, _, right in outcomes], dtype=bool)
    copies = []
    for count in counts:
        times = count[group]
        copies.append(calibration.calibrate(np.repeat(score, times), np.repeat(right, times)))
    estimates = {
        name: Estimate(value, np.array([copy[name] for copy in copies]), len(outcomes))
        for name, value in calibration.calibrate(score, right).items()
    }
    return estimates, calibration.reliability(score, right)


def score_labels(scored: Sequence[Unit]) -> dict[str, LabelScore]:
    """Scores every label of sufficient support over strict units, most frequent first."""
    rows: dict[str, list[tuple[float, bool, bool]]] = defaultdict(list)  # IoU, found, named
    for u in scored:
        drawn = {t: p for p, t in u.matched}
        named = {t: p for p, t in u.paired}
        for t, label in enumerate(u.truth_labels):
            is_found = t in drawn and bool(u.iou[drawn[t], t] >= IOU_THRESHOLD)
            right = is_found and bool(u.same_label[drawn[t], t])
            overlap = float(u.iou[named[t], t]) if t in named else 0.0
            rows[normalise(label)].append((overlap, is_found, right))
    ranked = sorted(rows.items(), key=lambda item: (-len(item[1]), item[0]))
    return {label: _sum_up(regions) for label, regions in ranked if len(regions) >= LEAST_SUPPORT}


def _sum_up(regions: Sequence[tuple[float, bool, bool]]) -> LabelScore:
    overlaps, found, right = np.array(regions, dtype=np.float64).sum(axis=0)
    return LabelScore(
        support=len(regions),
        miou=100 * float(overlaps) / len(regions),
        recall=100 * float(found) / len(regions),
        named=100 * float(right / found) if found else float("nan"),
    )


def _headline(modes: Estimates) -> dict[str, dict[str, Metric]]:
    return {
        mode: {name: table[name].metric() for name in HEADLINE} for mode, table in modes.items()
    }
