"""Requirements on a report, such as `compat.mIoU>=52`.

A name is `metric`, `mode.metric` (both mean the mean of the three subtasks), `subtask.metric` or
`subtask.mode.metric`; a missing mode is the default one. Names are also `parts.status_accuracy`,
every path of `METRIC_PATHS` (`partonomy.intersection.end2end.macro_gIoU`, `annotator.NoC@90`), and
`size3.compat.mIoU` for the groups of three images.
"""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass

from calico_model.errors import InvalidConfigError
from calico_model.evaluation import structure
from calico_model.evaluation.bootstrap import Metric
from calico_model.evaluation.metrics import COMPAT, STRICT
from calico_model.evaluation.outcome import (
    BLOCKS,
    HEADLINE,
    METRIC_PATHS,
    MODES,
    SUBTASKS,
    EvaluationReport,
)
from calico_model.types import MAX_GROUP_SIZE, RegionKind

_FORM = re.compile(r"\s*([\w.@\-]+?)\s*(>=|<=|>|<)\s*(-?\d+(?:\.\d+)?)\s*%?\s*")
_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


@dataclass(frozen=True)
class Requirement:
    """One condition on one metric.

    Attributes:
        name: as the user wrote it.
        sign: one of >=, <=, >, <.
        bound: percent, or clicks and the like where the metric is a count.
    """

    name: str
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.bound:g}"


def parse_requirement(text: str) -> Requirement:
    """Reads `metric>=52`.

    Raises:
        InvalidConfigError: another form.
    """
    form = _FORM.fullmatch(text)
    if form is None:
        raise InvalidConfigError(
            f"--require: expected NAME>=NUMBER, for example compat.mIoU>=52, got {text!r}"
        )
    name, sign, bound = form.groups()
    return Requirement(name, sign, float(bound))


def resolve(name: str, *, mode: str = "strict") -> tuple[str, ...]:
    """Returns the full path a name means, known before anything is measured.

    Args:
        name: as in a requirement.
        mode: what an unnamed mode means, "strict" or "compat".

    Returns:
        ("parts", metric), a path of `METRIC_PATHS`, ("size3", mode, metric), or
        (subtask or "mean", mode, metric).

    Raises:
        InvalidConfigError: there is no such metric; the message says what there is.
    """
    *path, metric = name.split(".")
    if path and path[0] in _TABLES:
        full: tuple[str, ...] = (*path, metric)
    elif path and path[0] in _SIZES:
        full = (path[0], *(path[1:] or [mode]), metric)
    else:
        task = path.pop(0) if path and path[0] in SUBTASKS else "mean"
        full = (task, path.pop(0) if path and path[0] in MODES else mode, *path, metric)
    if full not in _PATHS:
        siblings = sorted(known[-1] for known in _PATHS if known[:-1] == full[:-1])
        wanted = (
            f"one of {', '.join(siblings)}"
            if siblings
            else f"[{'|'.join(SUBTASKS)}.][{'|'.join(MODES)}.]METRIC, sizeN.METRIC or "
            f"{'|'.join(_TABLES)}.[...].METRIC, as in report.json"
        )
        raise InvalidConfigError(f"--require: no metric {name!r}; expected {wanted}")
    return full


def find_metric(report: EvaluationReport, name: str, *, mode: str = "strict") -> Metric:
    """Returns the metric a name means; raises as `resolve` does."""
    path = resolve(name, mode=mode)
    table, *rest = path
    if table == "parts":
        return report.parts[rest[0]]
    if table in BLOCKS:
        return report.blocks[path]
    if table in _SIZES:
        of_size = report.group_sizes.get(_SIZES[table])
        return of_size.mean[rest[0]][rest[1]] if of_size else _UNMEASURED
    modes = report.mean if table == "mean" else report.tasks[table]
    return modes[rest[0]][rest[1]]


def _paths() -> frozenset[tuple[str, ...]]:
    """Every metric a report holds."""
    precision = ("AP50", "AP50_cls")
    modes = {"strict": (*STRICT, *precision), "compat": (*COMPAT, *precision)}
    paths: list[tuple[str, ...]] = [
        (task, mode, name)
        for task in (*map(str, SUBTASKS), "mean")
        for mode, names in modes.items()
        for name in names
    ]
    for kind in (RegionKind.COMMON_OBJECT, RegionKind.COMMON_PART):
        paths += [(str(kind), "strict", name) for name in structure.PAIR_METRICS]
    paths += [(size, mode, name) for size in _SIZES for mode in MODES for name in HEADLINE]
    paths += METRIC_PATHS
    return frozenset(paths) | {("parts", name) for name in structure.part_tallies((), ())}


_TABLES = ("parts", *BLOCKS)
_SIZES = {f"size{images}": images for images in range(1, MAX_GROUP_SIZE + 1)}
_UNMEASURED = Metric(math.nan, math.nan, math.nan, 0)
_PATHS = _paths()


def failures(
    report: EvaluationReport, requirements: tuple[Requirement, ...], *, mode: str = "strict"
) -> tuple[str, ...]:
    """Says in plain words which requirements the report does not meet.

    Raises:
        InvalidConfigError: a requirement names no metric.
    """
    unmet = []
    for requirement in requirements:
        value = find_metric(report, requirement.name, mode=mode).value
        if math.isnan(value):
            unmet.append(f"{requirement} not met: there was nothing to measure")
        elif not _COMPARE[requirement.sign](value, requirement.bound):
            unmet.append(f"{requirement} not met: measured {value:.2f}")
    return tuple(unmet)
