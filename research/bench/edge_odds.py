"""Fits the weights by which MobileSAM's masks say what is right, for `calico bench odds`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calico_model.inference.confidence import fit_logistic
from calico_model.inference.detection_odds import (
    OBJECT_EDGES,
    PART_EDGES,
    EdgeEvidence,
    EdgeWeights,
)
from calico_model.types import LabeledGroup, RegionKind
from research.bench.outcome_fit import judged_right, outcome_figures, set_weights
from research.simulation.in_process import InProcessLoop

_Weights = tuple[EdgeWeights, EdgeWeights]
"""Of parts, and of objects."""


@dataclass(frozen=True)
class JudgedRegion:
    """A region that is shown, with the judgement of the truth.

    Attributes:
        is_object: whether it is an object or a part.
        chance: of being right before MobileSAM was asked, in [0, 1].
        edges: what MobileSAM says about its mask.
        is_right: whether its name is right and the IoU at least 0.5.
    """

    is_object: bool
    chance: float
    edges: EdgeEvidence
    is_right: bool

    def log_odds(self, weights: _Weights) -> float:
        """Returns its log odds of being right."""
        return weights[self.is_object].log_odds(self.chance, self.edges)


NOW: _Weights = (PART_EDGES, OBJECT_EDGES)
"""The weights of this release."""


def judge_regions(loop: InProcessLoop, labeled: LabeledGroup) -> list[JudgedRegion]:
    """Returns what the newest version shows of a group, judged; nothing without MobileSAM."""
    judged = []
    for segment in loop.draw(labeled.group):
        if segment.chance is not None and segment.edges is not None and segment.mask is not None:
            is_object = segment.kind is RegionKind.COMMON_OBJECT
            is_right = judged_right(
                labeled, segment.image, segment.label, segment.mask, is_object=is_object
            )
            judged.append(JudgedRegion(is_object, segment.chance, segment.edges, is_right))
    return judged


def fit_edges(judged: Mapping[str, Sequence[JudgedRegion]]) -> _Weights:
    """Fits the weights of parts and of objects; every set has the same weight.

    Args:
        judged: regions by set.
    """
    return _fit_kind(judged, is_object=False), _fit_kind(judged, is_object=True)


def _fit_kind(judged: Mapping[str, Sequence[JudgedRegion]], *, is_object: bool) -> EdgeWeights:
    by_set = [[one for one in found if one.is_object == is_object] for found in judged.values()]
    rows = [one for found in by_set for one in found]
    fitted = fit_logistic(
        np.array([one.edges.factors(one.chance) for one in rows]).reshape(-1, 4),
        np.array([one.is_right for one in rows], np.float64),
        mean=np.array([1.0, 0.0, 0.0, 0.0]),
        precision=np.array([1.0, 1.0, 1.0, 0.01]),
        least=np.array([0.0, 0.0, 0.0, -np.inf]),  # more evidence never lowers the chance
        row_weight=set_weights(by_set),
    )
    return EdgeWeights(*(float(value) for value in fitted))


def edge_figures(judged: Sequence[JudgedRegion], weights: _Weights) -> dict[str, float]:
    """Returns how well weights say which regions of a set are right: log loss and ECE."""
    log_odds: NDArray[np.float64] = np.array([one.log_odds(weights) for one in judged], np.float64)
    return outcome_figures(log_odds, np.array([one.is_right for one in judged], np.bool_))
