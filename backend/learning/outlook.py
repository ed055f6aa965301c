"""How many more corrected groups a project needs until its predictions are useful.

Pure: measured points in, an estimate and one sentence out. docs/learning.md states the rule.

A prediction is useful if it finds half of the regions that annotators leave behind: with the right
name and kind, and with an outline that overlaps theirs by at least half. The estimate fits a line
to what was found over the logarithm of the corrected groups a version had learned, and asks where
the line reaches one half. Each point counts as much as its number of tasks allows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

USEFUL = 0.5
"""Share of regions that a useful prediction finds."""
LEAST_TASKS = 3
"""Corrected tasks of one point from which it counts."""
MOST_TIMES = 4
"""Farthest estimate, as a multiple of the corrected groups of the farthest point."""
_SPREAD = 0.05  # a share of 0 or 1 in a few tasks is not certain: it is treated as this far inside


@dataclass(frozen=True)
class MeasuredPoint:
    """What the versions that had learned equally many groups found, by later corrections.

    Attributes:
        groups: number of corrected groups these versions had learned, 0 for the shipped model.
        tasks: number of corrected tasks that started from their predictions.
        found: number of regions in these tasks that were predicted rightly.
        regions: number of regions that annotators left in these tasks.
    """

    groups: int
    tasks: int
    found: int
    regions: int

    @property
    def recall(self) -> float:
        """Share of regions found, in [0, 1]."""
        return self.found / self.regions if self.regions else 0.0


@dataclass(frozen=True)
class Outlook:
    """The estimate.

    Attributes:
        is_useful: predictions are useful already.
        more: corrected groups that are still needed, None if useful or not yet known.
        least, most: range of `more`, None without an estimate.
        recall: share in [0, 1] that the farthest point finds, None without a point.
        words: one or two sentences for people.
    """

    is_useful: bool
    more: int | None
    least: int | None
    most: int | None
    recall: float | None
    words: str


def estimate(measured: Iterable[MeasuredPoint], corrected: int) -> Outlook:
    """Estimates how many more groups must be corrected.

    Args:
        measured: one point or more for every number of learned groups.
        corrected: number of corrected groups of the project now.
    """
    points = _pooled(measured)
    if not points:
        return _unknown(
            None,
            f"to tell, annotators must have corrected {LEAST_TASKS} groups that one version "
            "predicted.",
        )
    last = points[-1]
    if last.recall >= USEFUL:
        words = (
            f"Useful now: it found {_percent(last.recall)} of 100 regions by itself, "
            f"in {last.tasks} corrected groups."
        )
        return Outlook(True, None, None, None, last.recall, words)
    return _extrapolated(points, corrected) if len(points) > 1 else _of_one_point(last)


def _of_one_point(point: MeasuredPoint) -> Outlook:
    """Says what must be corrected until a second point is known: a line needs two."""
    is_shipped = point.groups == 0
    learned = f"a version that learned from {point.groups} groups"
    known, next_one = ("the shipped model", "a learned") if is_shipped else (learned, "a later")
    return _unknown(
        point.recall,
        f"corrections show only what {known} found, {_percent(point.recall)} of 100 regions. "
        f"Correct {LEAST_TASKS} groups that {next_one} version predicted.",
    )


def _extrapolated(points: Sequence[MeasuredPoint], corrected: int) -> Outlook:
    """Estimates where the line through two points or more reaches `USEFUL`."""
    last = points[-1]
    now = f"So far it finds {_percent(last.recall)} of 100 regions"
    learned_points = [point for point in points if point.groups]
    # The first corrections bring most: the shipped model counts only until there is a later slope.
    fitted = learned_points if len(learned_points) > 1 else points
    line = _fit(fitted)
    if line.slope <= line.slope_error:
        return _unknown(
            last.recall,
            f"what it finds has not clearly risen with the corrections. {now}. "
            "Look at the labels that are corrected most.",
        )
    x = (USEFUL - line.height) / line.slope
    # One standard error of the line at that place, along the horizontal axis.
    error = line.error_at(x) / line.slope
    at, early, late = (_groups(value) for value in (x, x - error, x + error))
    if at > MOST_TIMES * last.groups:
        return _unknown(
            last.recall,
            f"at this pace it takes more than {MOST_TIMES} times the {last.groups} groups of now, "
            f"and that is too far to foretell. {now}.",
        )
    more, least = max(1, at - corrected), max(1, early - corrected)
    most = max(more, late - corrected)
    if late > 10 * MOST_TIMES * last.groups:
        between = f"at least {least}"
    else:
        between = f"{least} to {most}" if least < most else f"{more}"
    guess = "A first guess: about" if len(fitted) == 2 else "About"
    words = (
        f"{guess} {more} more corrected {'group' if more == 1 else 'groups'} until predictions are "
        f"useful (likely {between}). {now}; useful is {_percent(USEFUL)}."
    )
    return Outlook(False, more, least, most, last.recall, words)


@dataclass(frozen=True)
class _Line:
    """A fitted line, with the variances of its parameters from the number of tasks behind it."""

    height: float
    slope: float
    variance_height: float
    variance_slope: float
    covariance: float

    @property
    def slope_error(self) -> float:
        return math.sqrt(self.variance_slope)

    def error_at(self, x: float) -> float:
        """Standard error of the line's height at x."""
        variance = self.variance_height + 2 * x * self.covariance + x * x * self.variance_slope
        return math.sqrt(max(variance, 0.0))


def _pooled(measured: Iterable[MeasuredPoint]) -> list[MeasuredPoint]:
    """One point per number of learned groups, by rising number, those of few tasks left out."""
    sums: dict[int, MeasuredPoint] = {}
    for one in measured:
        known = sums.get(one.groups, MeasuredPoint(one.groups, 0, 0, 0))
        sums[one.groups] = MeasuredPoint(
            one.groups,
            known.tasks + one.tasks,
            known.found + one.found,
            known.regions + one.regions,
        )
    usable = (one for one in sums.values() if one.tasks >= LEAST_TASKS and one.regions)
    return sorted(usable, key=lambda one: one.groups)


def _fit(points: Sequence[MeasuredPoint]) -> _Line:
    """Fits recall over log2(1 + groups), weighted by the inverse variance of a share of tasks.

    The regions of one task are right or wrong together, so tasks are counted and not regions.
    """
    xs = [math.log2(1 + one.groups) for one in points]
    ys = [one.recall for one in points]
    shares = [min(max(y, _SPREAD), 1 - _SPREAD) for y in ys]
    weights = [one.tasks / (p * (1 - p)) for one, p in zip(points, shares, strict=True)]
    total = sum(weights)
    mean_x = sum(w * x for w, x in zip(weights, xs, strict=True)) / total
    mean_y = sum(w * y for w, y in zip(weights, ys, strict=True)) / total
    spread = sum(w * (x - mean_x) ** 2 for w, x in zip(weights, xs, strict=True))
    slope = (
        sum(w * (x - mean_x) * (y - mean_y) for w, x, y in zip(weights, xs, ys, strict=True))
        / spread
    )
    return _Line(
        height=mean_y - slope * mean_x,
        slope=slope,
        variance_height=1 / total + mean_x**2 / spread,
        variance_slope=1 / spread,
        covariance=-mean_x / spread,
    )


def _groups(x: float) -> int:
    """Corrected groups at a place of the horizontal axis, rounded up."""
    return math.ceil(2 ** min(max(x, 0.0), 40.0) - 1)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"


def _unknown(recall: float | None, why: str) -> Outlook:
    return Outlook(
        False,
        None,
        None,
        None,
        recall,
        f"It is not yet known how many more groups it takes until predictions are useful: {why}",
    )
