"""Calibrated scores: the chance that an annotator keeps a region.

Two logistic fits, both monotone. `Confidence` weighs the evidence of the network about a region
(predicted IoU, mask score and phrase probability, with an exponent each). It is fitted once per
set of weights, on labeled groups, and its file is beside the weights. `Calibration` adapts these
scores to the annotators of one project. It starts from the identity, so that a few outcomes change
it little, and its file is in the folder of every adapter version. Pure arrays; does not know where
outcomes come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from calico_model.errors import CheckpointError, InvalidConfigError
from calico_model.staging import replace_text
from calico_model.types import GroupPrediction, MaskEvidence

CONFIDENCE_FILE = "confidence.json"
CALIBRATION_FILE = "calibration.json"

_Floats = NDArray[np.float64]
_LEAST = 1e-4  # probabilities are bounded to that distance from 0 and 1
_STEPS = 100
_TOLERANCE = 1e-9


class Confidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Chance of a region = sigmoid(bias + iou log iou_hat + mask log m + phrase log p).

    Attributes:
        iou, mask, phrase: exponents, at least 0: more evidence never lowers the chance.
        bias: log odds of a region with full evidence.
    """

    iou: float
    mask: float
    phrase: float
    bias: float

    def score(self, evidence: MaskEvidence) -> float:
        """Returns the chance of one region, in [0, 1]."""
        logs = np.log(np.maximum((evidence.iou, evidence.mask, evidence.phrase), _LEAST))
        return float(sigmoid(logs @ (self.iou, self.mask, self.phrase) + self.bias))

    def apply(self, prediction: GroupPrediction) -> GroupPrediction:
        """Returns a prediction with these scores; regions without evidence keep their score."""
        parts = tuple(
            part if part.evidence is None else replace(part, score=self.score(part.evidence))
            for part in prediction.parts
        )
        return replace(prediction, parts=parts)


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Log odds after = slope * log odds before + shift; the default changes nothing.

    Attributes:
        slope: above 0, so that the order of regions stays the same.
        shift: in log odds.
        outcomes: number of regions of the fit.
    """

    slope: float = 1.0
    shift: float = 0.0
    outcomes: int = 0

    def score(self, score: float) -> float:
        """Returns the calibrated score, in [0, 1]; the identity returns the same bits."""
        if self.is_identity:
            return score
        return float(sigmoid(self.slope * log_odds(np.array(score)) + self.shift))

    def undo(self, score: float) -> float:
        """Returns the score before calibration of a calibrated score."""
        if self.is_identity:
            return score
        return float(sigmoid((log_odds(np.array(score)) - self.shift) / self.slope))

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return self.slope == 1.0 and self.shift == 0.0

    def apply(self, prediction: GroupPrediction) -> GroupPrediction:
        """Returns a prediction with calibrated scores."""
        if self.is_identity:
            return prediction
        parts = tuple(replace(part, score=self.score(part.score)) for part in prediction.parts)
        return replace(prediction, parts=parts)


@dataclass(frozen=True)
class EvidenceOutcome:
    """One region with the judgement of an annotator or of the truth.

    Attributes:
        evidence: of the network.
        is_right: whether the name is right and the mask has an IoU of at least 0.5.
    """

    evidence: MaskEvidence
    is_right: bool


def fit_confidence(outcomes: Sequence[EvidenceOutcome]) -> Confidence:
    """Fits exponents and bias by logistic regression with a weak prior at the plain product.

    Raises:
        InvalidConfigError: there is no right or no wrong region.
    """
    right = np.array([outcome.is_right for outcome in outcomes], dtype=np.float64)
    if not 0 < right.sum() < len(right):
        raise InvalidConfigError(
            f"outcomes: expected right and wrong regions, got {int(right.sum())} right "
            f"of {len(right)}"
        )
    evidences = [outcome.evidence for outcome in outcomes]
    factors = [(evidence.iou, evidence.mask, evidence.phrase) for evidence in evidences]
    logs = np.log(np.maximum(np.array(factors, dtype=np.float64), _LEAST))
    weights = fit_logistic(
        np.column_stack((logs, np.ones(len(logs)))),
        right,
        mean=np.array([1.0, 1.0, 1.0, 0.0]),
        precision=np.array([0.1, 0.1, 0.1, 0.01]),
        least=np.array([0.0, 0.0, 0.0, -np.inf]),
    )
    return Confidence(*(float(weight) for weight in weights))


def fit_calibration(score: _Floats, right: NDArray[np.bool_]) -> Calibration:
    """Fits slope and shift to a project's outcomes (Platt 1999), with the identity as prior.

    The prior weighs as much as about a hundred regions; without regions the fit is the identity. A
    new project has only a few dozen outcomes, of older versions than the one to calibrate. On seven
    sets of photographs, a prior of ten regions moved scores by more than their error.

    Args:
        score: (N,) in [0, 1], before any calibration.
        right: (N,) bool, whether each region was kept.
    """
    if not len(score):
        return Calibration()
    weights = fit_logistic(
        np.column_stack((log_odds(score), np.ones(len(score)))),
        right.astype(np.float64),
        mean=np.array([1.0, 0.0]),
        precision=np.array([100.0, 25.0]),
        least=np.array([0.05, -np.inf]),
    )
    return Calibration(float(weights[0]), float(weights[1]), len(score))


def fit_logistic(
    features: _Floats,
    right: _Floats,
    *,
    mean: _Floats,
    precision: _Floats,
    least: _Floats | float = -np.inf,
    row_weight: _Floats | float = 1.0,
) -> _Floats:
    """Logistic regression with a normal prior and lower bounds, by Newton steps.

    A weight at its bound stays there while a step would bring it below.

    Args:
        features: (N, F).
        right: (N,) 1 or 0.
        mean, precision: (F,) of the prior.
        least: (F,) bounds of the weights.
        row_weight: (N,) how often each row counts.

    Returns:
        (F,) weights.
    """
    weights = np.maximum(mean, least)
    for _ in range(_STEPS):
        chance = sigmoid(features @ weights)
        slope = features.T @ (row_weight * (chance - right)) + precision * (weights - mean)
        free = (weights > least) | (slope < 0)
        spread = row_weight * chance * (1 - chance)
        curvature = (features.T * spread) @ features + np.diag(precision)
        step = np.zeros_like(weights)
        step[free] = np.linalg.solve(curvature[np.ix_(free, free)], slope[free])
        step /= max(1.0, np.abs(step).max() / 2.0)  # long steps overshoot
        moved = np.maximum(weights - step, least)
        has_converged = np.abs(moved - weights).max() < _TOLERANCE
        weights = moved
        if has_converged:
            break
    return weights


def read_confidence(folder: Path) -> Confidence | None:
    """Reads the file beside a model's weights, None if there is no file.

    Raises:
        CheckpointError: the file cannot be read.
    """
    return _read(folder / CONFIDENCE_FILE, Confidence)


def read_calibration(folder: Path) -> Calibration:
    """Reads the file in an adapter's folder, the identity if there is no file.

    Raises:
        CheckpointError: the file cannot be read, or does not keep the order of scores.
    """
    calibration = _read(folder / CALIBRATION_FILE, Calibration) or Calibration()
    is_finite = np.isfinite((calibration.slope, calibration.shift)).all()
    if not (is_finite and calibration.slope > 0):
        raise CheckpointError(f"{folder / CALIBRATION_FILE}: slope: expected a number above 0")
    return calibration


def write_beside(folder: Path, fitted: Confidence | Calibration) -> None:
    """Writes a fit into the folder of its weights or adapter, whole or not at all.

    Raises:
        CheckpointError: the file cannot be written.
    """
    name = CONFIDENCE_FILE if isinstance(fitted, Confidence) else CALIBRATION_FILE
    text = msgspec.json.format(msgspec.json.encode(fitted), indent=1).decode()
    replace_text(folder / name, text + "\n")


_T = TypeVar("_T", Confidence, Calibration)


def _read(path: Path, kind: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def sigmoid(log_odds: _Floats) -> _Floats:
    """Returns the chances of log odds, in [0, 1]; of any shape."""
    return 1.0 / (1.0 + np.exp(-np.clip(log_odds, -500.0, 500.0)))


def log_odds(chance: _Floats, least: float = _LEAST) -> _Floats:
    """Returns the log odds of chances of any shape, which are bounded to [least, 1 - least]."""
    bounded = np.clip(chance, least, 1.0 - least)
    return np.asarray(np.log(bounded / (1.0 - bounded)))
