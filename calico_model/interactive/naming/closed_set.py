"""Closed label sets, the names that regions get, and the fusion of the classifiers.

The fusion is log-linear: every classifier has an exponent, and a classifier that knows nothing is
uniform and changes nothing. Pure arrays; does not know where chances come from.
Legend: R regions, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from calico_model.interactive.naming.prototypes import Prototypes
from calico_model.types import BoolMask, RegionKind
from calico_model.vocabulary import Vocabulary

UNSURE_BELOW = 0.3
"""Smallest chance at which a region gets a label; below it the annotator decides."""
IS_INSIDE = 0.5
"""Smallest chance of having a label of the set, from which a region gets a label."""
_RANKED = 3


@dataclass(frozen=True)
class Fusion:
    """Exponents of the classifiers: log p = sum of weight * log p_i, normalised over the set.

    `calico fit-names` fits them for given weights, on projects of held-out drawn scenes where the
    head does not know half of the names; the defaults are not fitted.

    Attributes:
        language, head, prototypes, cells: exponents of the classifiers, see name_regions.py.
        trusted_after: number of accepted regions at which the prototypes have half their exponent.
        temperature: of the cosines to prototypes.
        familiar: cosine to a label's prototype at which a label without accepted regions is as
            likely.
    """

    language: float = 0.5
    head: float = 1.0
    prototypes: float = 1.0
    cells: float = 3.0
    trusted_after: float = 8.0
    temperature: float = 0.07
    familiar: float = 0.35


@dataclass(frozen=True)
class Named:
    """The name of a region.

    Attributes:
        label: of the closed set, or None if no label is likely enough or the region has none of
            the set's labels.
        chance: of the likeliest label, in [0, 1], also where `label` is None.
        ranked: the likeliest labels with their chances, falling.
        inside: chance in [0, 1] that the region has a label of the set.
    """

    label: str | None
    chance: float
    ranked: tuple[tuple[str, float], ...]
    inside: float = 1.0


@dataclass(frozen=True, eq=False)
class Outline:
    """A region to name.

    Attributes:
        image_index: 0-based position of the image in its group.
        mask: (H, W) bool in the original frame, not empty.
        kind: what the region is to its group, or None if unknown.
        predicted_label: the model's own name of the region, or None if it did not predict it.
        same: equal for regions that show the same thing in several images: they get one name.
    """

    image_index: int
    mask: BoolMask
    kind: RegionKind | None = None
    predicted_label: str | None = None
    same: str | None = None


@dataclass(frozen=True, eq=False)
class ClosedSet:
    """The labels that regions may get, and the settings of naming.

    Attributes:
        vocabulary: the labels with their aliases.
        accepted: prototypes of accepted regions of each label.
        weights: exponents of the classifiers.
        least: smallest chance at which a region gets a label.
        rejects: whether a region may have none of the labels; else every region has one.
    """

    vocabulary: Vocabulary
    accepted: Prototypes = field(default_factory=Prototypes)
    weights: Fusion = field(default_factory=Fusion)
    least: float = UNSURE_BELOW
    rejects: bool = True


def fuse(
    closed: ClosedSet,
    head: NDArray[np.float64],
    prototypes: NDArray[np.float64],
    language: NDArray[np.float64],
    cells: NDArray[np.float64] | None = None,
    *,
    same: Sequence[str | None] = (),
    inside: NDArray[np.float64] | None = None,
) -> tuple[Named, ...]:
    """Fuses the chances of the classifiers and names R regions.

    Args:
        closed: the set of C labels.
        head, prototypes, language, cells: (R, C) log chances of each classifier; a uniform row
            changes nothing, and so does None.
        same: per region, see `Outline.same`; () for all different.
        inside: (R,) chance that each region has a label of the set; None for certain.
    """
    weights, accepted = closed.weights, closed.accepted.regions
    trust = weights.prototypes * accepted / (accepted + weights.trusted_after)
    logits = weights.head * head + trust * prototypes + weights.language * language
    if cells is not None:
        logits = logits + weights.cells * cells
    for thing in {key for key in same if key is not None}:
        rows = [row for row, key in enumerate(same) if key == thing]
        logits[rows] = logits[rows].mean(0)
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    certain = np.ones(len(chances)) if inside is None else inside
    return tuple(_name(closed, *row) for row in zip(chances, map(float, certain), strict=True))


def _name(closed: ClosedSet, chances: NDArray[np.float64], inside: float) -> Named:
    labels = closed.vocabulary.labels
    order = np.argsort(-chances, kind="stable")[:_RANKED]
    ranked = tuple((labels[int(n)], float(chances[n])) for n in order)
    label, chance = ranked[0]
    is_given = chance >= closed.least and inside >= IS_INSIDE
    return Named(label if is_given else None, chance, ranked, inside)
