"""Counts -> metrics with intervals, for the subtasks, the blocks beside them and group sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from calico_model.evaluation import blocks, bootstrap, calibration
from calico_model.evaluation.bootstrap import Estimate, Metric
from calico_model.evaluation.calibration import Bin
from calico_model.evaluation.cosegmentation import (
    Cosegmentation,
    Entry,
    Estimates,
    mean_of_subtasks,
)
from calico_model.evaluation.outcome import HEADLINE, MODES, SUBTASKS, GroupSize

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
    places = {group: place for place, group in enumerate(groups)}
    tasks = {str(kind): calico.estimate(kind, places, counts) for kind in SUBTASKS}
    return tasks, {mode: mean_of_subtasks(tasks.values(), mode) for mode in MODES}


def close_sizes(
    calico: Cosegmentation,
    sizes: Sequence[int],
    overall: tuple[dict[str, Estimates], Estimates],
    resamples: int,
    seed: int,
) -> dict[int, GroupSize]:
    """Sums up the groups of every size apart, with intervals over those groups alone.

    Args:
        calico: all units.
        sizes: number of images of each group.
        overall: `calico_tables` of all groups, which is the answer if all are of one size.
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
    tallies: Mapping[blocks.Path, Sequence[Entry]],
    samples: Mapping[str, Sequence[tuple[int, float]]],
    outcomes: Outcomes,
    counts: NDArray[np.int64],
) -> tuple[dict[blocks.Path, Metric], tuple[Bin, ...]]:
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
            1.0 if path[-1] in blocks.PLAIN else 100.0
        )
        for path in blocks.PATHS
    }
    path = ("annotator", blocks.EDIT_RATIO)
    metrics[path] = bootstrap.median(samples.get(blocks.EDIT_RATIO, ()), counts).metric()
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


def _headline(modes: Estimates) -> dict[str, dict[str, Metric]]:
    return {
        mode: {name: table[name].metric() for name in HEADLINE} for mode, table in modes.items()
    }
