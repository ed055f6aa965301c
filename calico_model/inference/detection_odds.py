"""The odds that a detection of the dense head is right: its name, with an IoU of 0.5 or more.

A weighted sum of what speaks for a detection, by logistic regression on detections in photographs.
`DenseRows.shift` corrects the odds for one adapter. The odds decide what is shown. Once MobileSAM
has drawn the mask of what is shown, what it says about the mask is weighed, too. A project's
`Calibration` corrects the scores that come out.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

_USUAL_ELSEWHERE = 0.7
"""Certainty of a name in another image of the group, for a group of one image."""


@dataclass(frozen=True)
class DetectionEvidence:
    """What speaks for a detection.

    Attributes:
        is_object: whether it is an object or a part.
        overlap: expected IoU of its cells with the truth, in [0, 1].
        certainty: mean probability of the name in its cells, in [0, 1].
        peak: greatest probability of the name in a cell, in [0, 1].
        elsewhere: greatest certainty of the name in another image of the group, 0 where no other
            image shows it; None in a group of one image.
        images: number of images that the head has learned from.
        seen: number of these images that show the name; counts for parts only.
        names: number of names that the head tells apart; counts for parts only.
    """

    is_object: bool
    overlap: float
    certainty: float
    peak: float
    elsewhere: float | None
    images: int
    seen: int
    names: int

    @property
    def factors(self) -> tuple[float, ...]:
        """What the weights of `OddsWeights` are multiplied with, in their order."""
        seen = max(1, self.seen) / max(1, self.images)
        return (
            log_odds(self.overlap),
            log_odds(self.certainty),
            math.log(max(1, self.images)),
            _USUAL_ELSEWHERE if self.elsewhere is None else self.elsewhere,
            log_odds(self.peak),
            math.log(min(1.0, seen)),
            math.log(max(1, self.names)),
            1.0,
        )

    def log_odds_right(self) -> float:
        """Returns the log odds that the detection is right, before the adapter's shift."""
        return (OBJECT_ODDS if self.is_object else PART_ODDS).log_odds(self)


@dataclass(frozen=True)
class OddsWeights:
    """Weights of the evidence, and a shift in log odds.

    Overlap, certainty and peak count by their log odds; images, seen (as a share of the images)
    and names by their log.
    """

    overlap: float
    certainty: float
    images: float
    elsewhere: float
    peak: float
    seen: float
    names: float
    shift: float

    def log_odds(self, evidence: DetectionEvidence) -> float:
        """Returns the log odds that a detection of this evidence is right."""
        weights = astuple(self)
        return math.fsum(w * factor for w, factor in zip(weights, evidence.factors, strict=True))


PART_ODDS = OddsWeights(1.64, 0.74, 0.27, 0.74, 0.31, 0.17, 0.54, -8.48)
OBJECT_ODDS = OddsWeights(1.18, 0.65, 0.73, 1.8, 0.0, 0.0, 0.0, -6.72)
"""Fitted by `calico bench odds --sets DIR --seeds 2` on seven sets of photographs, with heads that
learned from 10 and from 20 corrected pairs for 30 s."""


@dataclass(frozen=True)
class EdgeEvidence:
    """What MobileSAM says about the mask of a detection.

    Attributes:
        iou: predicted IoU of the mask that it draws there, in [0, 1].
        agreement: IoU of that mask with the detection's own, in [0, 1].
    """

    iou: float
    agreement: float

    def factors(self, chance: float) -> tuple[float, ...]:
        """What the weights of `EdgeWeights` are multiplied with, in their order.

        Args:
            chance: of the detection to be right, before MobileSAM was asked, in [0, 1].
        """
        iou, agreement = (min(max(x, 0.02), 0.98) for x in (self.iou, self.agreement))
        return log_odds(chance), log_odds(iou), log_odds(agreement), 1.0


@dataclass(frozen=True)
class EdgeWeights:
    """Weights of a detection's chance and of `EdgeEvidence`, and a shift in log odds.

    All count by their log odds.
    """

    chance: float
    iou: float
    agreement: float
    shift: float

    def log_odds(self, chance: float, edges: EdgeEvidence) -> float:
        """Returns the log odds that a detection of this chance and evidence is right."""
        factors = edges.factors(chance)
        return math.fsum(w * factor for w, factor in zip(astuple(self), factors, strict=True))


PART_EDGES = EdgeWeights(0.62, 0.06, 0.25, -0.36)
OBJECT_EDGES = EdgeWeights(1.1, 0.2, 0.6, -1.5)
"""Fitted in the same way, on regions of eight draws (five sets) that the weights above show.
`calico bench odds` says how well they hold."""


def chance_with_edges(chance: float, edges: EdgeEvidence, *, is_object: bool) -> float:
    """Returns the chance in [0, 1] that a detection is right, after MobileSAM drew its mask.

    Args:
        chance: before it did, in [0, 1].
        edges: what it says about the mask.
        is_object: whether the detection is an object or a part.
    """
    weights = OBJECT_EDGES if is_object else PART_EDGES
    return 1 / (1 + math.exp(-weights.log_odds(chance, edges)))


def log_odds(chance: float) -> float:
    """Returns the log odds of a chance in [0, 1], bounded."""
    bounded = min(max(chance, 1e-3), 0.995)
    return math.log(bounded / (1 - bounded))
