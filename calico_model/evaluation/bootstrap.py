"""From per-unit tallies to a value with its interval: ratios, medians, average precision.

Legend: G groups, R resamples, D detections. Groups are what is resampled, because the images of a
group are not independent of each other. Knows numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calico_model.evaluation.matching import FloatArray

RECALL_POINTS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Metric:
    """One aggregate, in percent unless its name says otherwise, with its 95 % bootstrap interval.

    Attributes:
        value: NaN where there was nothing to measure.
        lo: 2.5 % quantile over the resamples.
        hi: 97.5 % quantile.
        n: what the value is a mean over: truths, images or pairs.
    """

    value: float
    lo: float
    hi: float
    n: int


@dataclass(frozen=True, eq=False)
class Estimate:
    """A value and its resampled copies, both as fractions.

    Attributes:
        value: in [0, 1] or NaN.
        copies: (R,) the value on every resample; NaN where a resample had nothing to measure.
        n: size of the sample.
    """

    value: float
    copies: FloatArray
    n: int

    def metric(self, scale: float = 100.0) -> Metric:
        """Sums up: in percent, or times another scale (1 for counts such as clicks)."""
        value = scale * self.value
        known = self.copies[~np.isnan(self.copies)]
        if not known.size:
            return Metric(value, value, value, self.n)
        lo, hi = np.quantile(known, (0.025, 0.975))
        return Metric(value, scale * float(lo), scale * float(hi), self.n)


def draw_counts(groups: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """How often each group is in each resample, (R, G); every row sums to G."""
    rng = np.random.default_rng(seed)
    if not groups:
        return np.zeros((resamples, 0), dtype=np.int64)
    return rng.multinomial(groups, np.full(groups, 1.0 / groups), size=resamples)


def ratio(tallies: Sequence[tuple[int, float, float]], counts: NDArray[np.int64]) -> Estimate:
    """Pools (group, part, whole) into sum of parts over sum of wholes.

    Args:
        tallies: one entry per unit.
        counts: (R, G) from `draw_counts`.
    """
    groups = counts.shape[1]
    parts, wholes = np.zeros(groups), np.zeros(groups)
    for group, part, whole in tallies:
        parts[group] += part
        wholes[group] += whole
    value = _divide(parts.sum(keepdims=True), wholes.sum(keepdims=True))[0]
    return Estimate(float(value), _divide(counts @ parts, counts @ wholes), round(wholes.sum()))


def median(samples: Sequence[tuple[int, float]], counts: NDArray[np.int64]) -> Estimate:
    """Lower median of (group, value) samples, and of every resample.

    Args:
        samples: one entry per unit; values may be infinite, not NaN.
        counts: (R, G) from `draw_counts`.
    """
    if not samples:
        return Estimate(float("nan"), np.zeros(0), 0)
    groups, values = (np.array(column) for column in zip(*samples, strict=True))
    order = np.argsort(values, kind="stable")
    groups, values = groups[order], values[order]
    copies = np.full(len(counts), np.nan)
    for row, count in enumerate(counts):
        below = np.cumsum(count[groups])  # (D,) how many of the resample are at most this value
        if below[-1]:
            copies[row] = values[np.searchsorted(below, (below[-1] + 1) // 2)]
    return Estimate(float(values[(len(values) - 1) // 2]), copies, len(values))


def average_precision(
    ranked: Sequence[tuple[int, float, bool]],
    truths: Sequence[tuple[int, int]],
    counts: NDArray[np.int64],
) -> Estimate:
    """COCO's average precision with 101 recall points, and its resampled copies.

    Args:
        ranked: (group, score, is a hit) per prediction, in image order and, within an image, in
            the order it was matched. Equal scores keep this order, as COCOeval's stable sort does.
        truths: (group, number of truths) per image.
        counts: (R, G) from `draw_counts`. A group drawn twice repeats each prediction in place.
    """
    truth_counts = np.zeros(counts.shape[1])
    for group, number in truths:
        truth_counts[group] += number
    order = np.argsort([-score for _, score, _ in ranked], kind="stable")
    groups = np.array([group for group, _, _ in ranked], dtype=np.int64)[order]  # (D,)
    hits = np.array([hit for _, _, hit in ranked], dtype=bool)[order]  # (D,)
    total = truth_counts.sum()
    copies = [
        precision_over_recall(np.repeat(hits, count[groups]), float(count @ truth_counts))
        for count in counts
    ]
    return Estimate(precision_over_recall(hits, float(total)), np.array(copies), round(total))


def precision_over_recall(hits: NDArray[np.bool_], truths: float) -> float:
    """Mean of the precision envelope at 101 recall points; NaN without truth.

    Args:
        hits: (D,) whether each prediction is right, best first.
        truths: how many there were to find.
    """
    if truths == 0:
        return float("nan")
    hits_so_far = np.cumsum(hits)
    precision = hits_so_far / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    index = np.searchsorted(hits_so_far / truths, RECALL_POINTS, side="left")
    reached = index[index < len(hits)]
    return float(envelope[reached].sum() / len(RECALL_POINTS))


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """Plain mean of several estimates over the same resamples, leaving out the unmeasured ones."""
    known = [estimate for estimate in estimates if not np.isnan(estimate.value)]
    if not known:
        return Estimate(float("nan"), np.zeros(0), 0)
    copies = np.stack([estimate.copies for estimate in known])  # (subtasks, R)
    return Estimate(
        float(np.mean([estimate.value for estimate in known])),
        copies.mean(axis=0),
        sum(estimate.n for estimate in known),
    )


def _divide(parts: FloatArray, wholes: FloatArray) -> FloatArray:
    quotient = np.full(len(parts), np.nan)
    np.divide(parts, wholes, out=quotient, where=wholes != 0)
    return quotient
