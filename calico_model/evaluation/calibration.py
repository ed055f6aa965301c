"""Reliability of confidences: whether a score in [0, 1] is the chance that a proposal is right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calico_model.evaluation.matching import iou_matrix
from calico_model.evaluation.metrics import IOU_THRESHOLD
from calico_model.inference.confidence import EvidenceOutcome
from calico_model.types import GroupPrediction, LabeledGroup, PartMask
from calico_model.vocabulary import normalise

BINS = 10
COVERAGES = (50, 80, 95)
NAMES = ("ECE", "Brier", "AUROC", "AURC", *(f"precision@{share}" for share in COVERAGES))


@dataclass(frozen=True)
class Bin:
    """Proposals of about one score.

    Attributes:
        lo: lower edge of the scores, inclusive (the last bin holds 1 too).
        n: how many proposals.
        confidence: their mean score, NaN without any.
        accuracy: share of them that are right, NaN without any.
    """

    lo: float
    n: int
    confidence: float
    accuracy: float


def calibrate(score: NDArray[np.float64], right: NDArray[np.bool_]) -> dict[str, float]:
    """Sums up scores against outcomes, as fractions; NaN where there is nothing to say.

    `ECE` is the expected calibration error: mean |accuracy - confidence| over 10 equal bins,
    weighted by their size (Guo et al. 2017). `Brier` is the mean squared difference of score and
    outcome. `AUROC` is the chance that a right proposal scores above a wrong one, ties half. `AURC`
    is the mean, over all coverages, of the share of wrong ones among the best scored.
    `precision@50` is the share of right ones among the best scored half.

    Args:
        score: (N,) in [0, 1].
        right: (N,) whether each proposal was right.
    """
    if not score.size:
        return dict.fromkeys(NAMES, float("nan"))
    place = _places(score)
    gaps = np.bincount(place, right, BINS) - np.bincount(place, score, BINS)
    ranked = right[np.argsort(-score, kind="stable")]
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)  # (N,) at every coverage
    kept = [max(1, round(share / 100 * len(ranked))) for share in COVERAGES]
    values = (
        float(np.abs(gaps).sum()) / len(score),
        float(np.mean((score - right) ** 2)),
        _auroc(score, right),
        1 - float(precision.mean()),
        *(float(precision[n - 1]) for n in kept),
    )
    return dict(zip(NAMES, values, strict=True))


def reliability(score: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[Bin, ...]:
    """Returns the ten bins of a reliability diagram; arguments as for `calibrate`."""
    place = _places(score)
    bins = []
    for number in range(BINS):
        here = place == number
        n = int(np.count_nonzero(here))
        confidence = float(score[here].mean()) if n else float("nan")
        accuracy = float(right[here].mean()) if n else float("nan")
        bins.append(Bin(number / BINS, n, confidence, accuracy))
    return tuple(bins)


def _places(score: NDArray[np.float64]) -> NDArray[np.int64]:
    """(N,) which bin each score falls into."""
    return np.minimum((score * BINS).astype(np.int64), BINS - 1)


def _auroc(score: NDArray[np.float64], hit: NDArray[np.bool_]) -> float:
    """Mann-Whitney U over the number of (right, wrong) pairs."""
    right, wrong = score[hit], np.sort(score[~hit])
    if not right.size or not wrong.size:
        return float("nan")
    below = np.searchsorted(wrong, right, side="left")
    ties = np.searchsorted(wrong, right, side="right") - below
    return float((below + ties / 2).sum() / (right.size * wrong.size))


def judge_regions(
    prediction: GroupPrediction, labeled: LabeledGroup
) -> tuple[EvidenceOutcome, ...]:
    """Returns one outcome per region with evidence whose subtask has a known truth.

    Right is what `calico evaluate` calls right when it measures calibration: the same subtask,
    image and label, and an IoU of at least 0.5.
    """
    return tuple(
        EvidenceOutcome(part.evidence, _is_right(part, labeled))
        for part in prediction.parts
        if part.evidence is not None and part.kind in labeled.known
    )


def _is_right(part: PartMask, labeled: LabeledGroup) -> bool:
    name = normalise(part.label)
    return any(
        truth.image_index == part.image_index
        and normalise(truth.label) == name
        and iou_matrix([part.mask], [truth.mask])[0, 0] >= IOU_THRESHOLD
        for truth in labeled.of_kind(part.kind)
    )
