"""What regions may be called and what they are called: values and the fusion of the classifiers.

Fusion is log-linear: every classifier has an exponent, and one that knows nothing is uniform and
changes nothing. Pure arrays; does not know where chances come from.
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
"""Smallest chance at which a region is given a label; below it the annotator decides."""
IS_INSIDE = 0.5
"""Smallest chance of being of the set at which a region is given a label."""
_RANKED = 3


@dataclass(frozen=True)
class Fusion:
    """Exponents of the classifiers: log p = sum of weight * log p_i, normalised over the set.

    `calico fit-names` finds what suits given weights, on projects made of held-out drawn scenes
    half of whose names the head was not told; the defaults are not fitted.

    Attributes:
        language, head, prototypes, cells: of the classifiers; cells are what the dense head says.
        trusted_after: accepted regions at which the prototypes have half their exponent.
        temperature: of the cosines to prototypes.
        familiar: cosine at which a region is as likely of a label nobody has accepted yet.
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
    """What a region is called.

    Attributes:
        label: of the closed set, or None when no label is likely enough, or the region is none of
            the set.
        chance: of the likeliest label, in [0, 1], whether it is given or not.
        ranked: the likeliest labels with their chances, falling; the first is the likeliest.
        inside: chance in [0, 1] that the region is of the set at all.
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
        kind: what it is to its group, or None when nobody has said.
        predicted_label: what the model itself calls it, or None for a region it did not find.
        same: equal for regions that show the same thing in several images, which have one name.
    """

    image_index: int
    mask: BoolMask
    kind: RegionKind | None = None
    predicted_label: str | None = None
    same: str | None = None


@dataclass(frozen=True, eq=False)
class ClosedSet:
    """What regions may be called, and what is known about it.

    Attributes:
        vocabulary: the labels with their aliases.
        accepted: what accepted regions of each label look like.
        weights: how the classifiers are weighed.
        least: smallest chance at which a label is given.
        rejects: whether regions may be none of the set; else each is taken to be of it.
    """

    vocabulary: Vocabulary
    accepted: Prototypes = field(default_factory=Prototypes)
    weights: Fusion = field(default_factory=Fusion)
    least: float = UNSURE_BELOW
    rejects: bool = True


def fuse(
    closed: ClosedSet,
    head: NDArray[np.float64],
    remembered: NDArray[np.float64],
    told: NDArray[np.float64],
    cells: NDArray[np.float64] | None = None,
    *,
    same: Sequence[str | None] = (),
    inside: NDArray[np.float64] | None = None,
) -> tuple[Named, ...]:
    """Weighs the classifiers of R regions and names them.

    Args:
        closed: the set of C labels.
        head, remembered, told, cells: (R, C) log chances; uniform rows say nothing.
        same: per region, see `Outline.same`; () for all different.
        inside: (R,) chance of each region to be of the set; None for certain.
    """
    weights, accepted = closed.weights, closed.accepted.regions
    trust = weights.prototypes * accepted / (accepted + weights.trusted_after)
    logits = weights.head * head + trust * remembered + weights.language * told
    if cells is not None:
        logits = logits + weights.cells * cells
    for thing in {one for one in same if one is not None}:
        rows = [row for row, one in enumerate(same) if one == thing]
        logits[rows] = logits[rows].mean(0)
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    sure = np.ones(len(chances)) if inside is None else inside
    return tuple(_name(closed, *row) for row in zip(chances, map(float, sure), strict=True))


def _name(closed: ClosedSet, chances: NDArray[np.float64], inside: float) -> Named:
    labels = closed.vocabulary.labels
    order = np.argsort(-chances, kind="stable")[:_RANKED]
    ranked = tuple((labels[int(n)], float(chances[n])) for n in order)
    label, chance = ranked[0]
    is_given = chance >= closed.least and inside >= IS_INSIDE
    return Named(label if is_given else None, chance, ranked, inside)
