"""The chance that a region has a label of a closed set at all.

Chances that sum to one over the set cannot tell. So there is a rejection class beside the labels,
in log odds, from four kinds of evidence: the model's own name of the region, the head's chances of
the set's names against all other names of training, the similarity to accepted regions, and the
names of the region's cells. Pure arrays. Legend: R regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calico_model.inference.confidence import log_odds, sigmoid
from calico_model.interactive.naming.closed_set import IS_INSIDE, ClosedSet

_Floats = NDArray[np.float64]
_FAR = 6.0  # bound of the log odds of one classifier

# Logistic regression on 382 regions that calico-tiny predicted in 40 drawn groups, each under 12
# random sets with and without its true name: 99.7 % of the regions of a set were kept, none of the
# others.
_BIAS, _OWN_WORD, _HEAD = 1.18, 1.51, 1.15
_UNKNOWN = -1.0  # instead of the bias, if the head knows no label of the set
_CELLS = 1.0  # not fitted; if half of the cells have labels of the set, the other evidence decides


@dataclass(frozen=True, eq=False)
class SetEvidence:
    """The evidence that R regions have a label of a set.

    Attributes:
        own_word: (R,) 1 where the model's own name is a label of the set, -1 where it is not, 0
            without a name.
        head: (R,) log odds of the set's names against all other names of training; 0 if the head
            knows none.
        known: share in [0, 1] of the labels that the head knows.
        cosine: (R,) of each region with the most similar accepted region; None without accepted
            regions.
        cells: (R,) share of a region's cells that have names of the set; None without a dense
            head.
        trust: in the dense head, in [0, 1].
        is_object: (R,) bool, whether the region is a whole object.
    """

    own_word: _Floats
    head: _Floats
    known: float
    cosine: _Floats | None
    cells: _Floats | None
    trust: float
    is_object: NDArray[np.bool_]


def chance_inside(
    closed: ClosedSet, evidence: SetEvidence, same: Sequence[str | None] = ()
) -> _Floats:
    """Returns the chance that each of R regions has a label of the set, (R,) in [0, 1].

    The region head was fitted on pictures of the base; the dense head learned the project's own
    pictures. The more trust in the dense head, the less weight has the region head. A whole object
    needs a name that the model or its cells give it: accepted parts of the object look like it.

    Args:
        closed: the set.
        evidence: of R regions.
        same: see `Outline.same`; () for all different.
    """
    weights, accepted = closed.weights, closed.accepted.regions
    head_weight = 1.0 if evidence.cells is None else 1.0 - evidence.trust
    bias = head_weight * _BIAS + (1 - head_weight) * _UNKNOWN if evidence.known else _UNKNOWN
    odds = bias + _OWN_WORD * evidence.own_word
    odds += head_weight * _HEAD * evidence.known * evidence.head.clip(-_FAR, _FAR)
    if evidence.cosine is not None:
        likeness = (evidence.cosine - weights.familiar) / weights.temperature
        odds += accepted / (accepted + weights.trusted_after) * likeness.clip(-_FAR, _FAR)
    is_named = evidence.own_word > 0
    if evidence.cells is not None:
        odds += _CELLS * evidence.trust * log_odds(evidence.cells, least=1e-3)
        is_named |= evidence.cells >= IS_INSIDE
    for thing in {key for key in same if key is not None}:
        rows = [row for row, key in enumerate(same) if key == thing]
        odds[rows] = odds[rows].mean()
    return np.where(evidence.is_object & ~is_named, 0.0, sigmoid(odds))
