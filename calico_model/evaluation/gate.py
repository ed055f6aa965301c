"""Turns a report into a yes or no: requirements such as `compat.mIoU>=52`.

A name is `metric`, `mode.metric` (both mean the mean of the three subtasks), `subtask.metric` or
`subtask.mode.metric`; a missing mode is the default one. `parts.status_accuracy` is a name too.
"""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass

from calico_model.errors import InvalidConfigError
from calico_model.evaluation.bootstrap import Metric
from calico_model.evaluation.outcome import MODES, Report

_FORM = re.compile(r"\s*([\w.\-]+?)\s*(>=|<=|>|<)\s*(-?\d+(?:\.\d+)?)\s*%?\s*")
_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


@dataclass(frozen=True)
class Requirement:
    """One condition on one metric.

    Attributes:
        name: as the user wrote it.
        sign: one of >=, <=, >, <.
        bound: percent.
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


def find_metric(report: Report, name: str, *, mode: str = "strict") -> Metric:
    """Returns the metric a name means.

    Raises:
        InvalidConfigError: there is none of that name; the message lists what there is.
    """
    *path, metric = name.split(".")
    table: dict[str, Metric] | None = None
    if path == ["parts"]:
        table = report.parts
    else:
        modes = report.mean
        if path and path[0] in report.tasks:
            modes = report.tasks[path.pop(0)]
        chosen = path.pop(0) if path and path[0] in MODES else mode
        table = modes[chosen] if not path else None
    if table is None:
        raise InvalidConfigError(
            f"--require: no metric {name!r}; expected [{'|'.join(report.tasks)}.]"
            f"[{'|'.join(MODES)}.]METRIC or parts.METRIC"
        )
    if metric not in table:
        raise InvalidConfigError(
            f"--require: no metric {name!r}; expected one of {', '.join(sorted(table))}"
        )
    return table[metric]


def failures(
    report: Report, requirements: tuple[Requirement, ...], *, mode: str = "strict"
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
