"""Labels that a model cannot tell apart: by their looks, by their words, by their spelling.

Looks: each region is compared with the regions of two labels in other groups. If its nearest
neighbour has the wrong label about as often as by chance, the regions of the two labels look alike.
Words: a source is asked for both labels; if it outlines the same place, their words mean the same
to it. Spelling: two labels with one normal form. Pure arrays; knows no model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from calico_model.masks import mask_iou
from calico_model.types import BoolMask, Vector
from calico_model.vocabulary import normalise

LEAST_REGIONS, LEAST_GROUPS = 5, 3
"""Regions and groups that a label must have to be judged by its looks."""
LEAST_SEPARATION = 0.75
"""Share of right nearest neighbours from which on two labels count as told apart; 0.5 is chance."""
LEAST_IMAGES = 3
"""Images on which both labels must be asked, to be judged by their words."""
SAME_PLACE = 0.5
"""IoU of two answers that outline the same place, and share of images where they must."""
_EXAMPLES = 4


@dataclass(frozen=True, eq=False)
class LabeledLook:
    """How one labeled region looks.

    Attributes:
        group: number of its group.
        label: as the project writes it.
        vector: (d,) float32 of length 1.
    """

    group: int
    label: str
    vector: Vector


@dataclass(frozen=True)
class AlikeLooks:
    """Two labels whose regions look alike.

    Attributes:
        labels: the two labels.
        separation: mean over both labels of the share of right nearest neighbours, in [0, 1].
        regions: number of regions of each label.
        examples: positions of the most mistaken regions of each label, the worst first.
    """

    labels: tuple[str, str]
    separation: float
    regions: tuple[int, int]
    examples: tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class LooksCheck:
    """What the looks say.

    Attributes:
        alike: pairs that are not told apart, the least separated first.
        judged: labels with enough regions.
        unjudged: labels with too few regions or groups, by alphabet.
    """

    alike: tuple[AlikeLooks, ...]
    judged: tuple[str, ...]
    unjudged: tuple[str, ...]


def check_looks(looks: Sequence[LabeledLook]) -> LooksCheck:
    """Compares the regions of every two labels, each region with those of other groups."""
    rows: dict[str, list[int]] = defaultdict(list)
    for number, look in enumerate(looks):
        rows[look.label].append(number)
    judged = tuple(
        label
        for label, members in rows.items()
        if len(members) >= LEAST_REGIONS
        and len({looks[number].group for number in members}) >= LEAST_GROUPS
    )
    unjudged = tuple(sorted(set(rows) - set(judged)))
    if len(judged) < 2:
        return LooksCheck((), judged, unjudged)
    vectors = _side_by_side([look.vector for look in looks])
    groups = np.array([look.group for look in looks])
    # (n, labels): the cosine of each region with the nearest region of each label elsewhere.
    nearest = np.stack(
        [_nearest(vectors, groups, np.array(rows[label])) for label in judged], axis=1
    )
    found = []
    for first, second in combinations(range(len(judged)), 2):
        pair = judged[first], judged[second]
        ours, theirs = np.array(rows[pair[0]]), np.array(rows[pair[1]])
        margins = (
            nearest[ours, first] - nearest[ours, second],
            nearest[theirs, second] - nearest[theirs, first],
        )
        separation = float(np.mean([np.mean(margin > 0) for margin in margins]))
        if separation < LEAST_SEPARATION:
            examples = (_worst(ours, margins[0]), _worst(theirs, margins[1]))
            found.append(AlikeLooks(pair, separation, (len(ours), len(theirs)), examples))
    return LooksCheck(tuple(sorted(found, key=lambda one: one.separation)), judged, unjudged)


def _side_by_side(vectors: Sequence[Vector]) -> NDArray[np.float32]:
    """(n, sum of all widths); vectors of two widths, from two networks, are at a right angle."""
    starts = dict[int, int]()
    for vector in vectors:
        starts.setdefault(len(vector), sum(starts))
    rows = np.zeros((len(vectors), sum(starts)), np.float32)
    for row, vector in zip(rows, vectors, strict=True):
        start = starts[len(vector)]
        row[start : start + len(vector)] = vector
    return rows


def _nearest(
    vectors: NDArray[np.float32], groups: NDArray[np.int64], members: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(n,) cosine with the nearest member of another group."""
    cosines = vectors @ vectors[members].T
    cosines[groups[:, None] == groups[members][None]] = -np.inf
    nearest: NDArray[np.float32] = cosines.max(1)
    return nearest


def _worst(rows: NDArray[np.int64], margins: NDArray[np.float32]) -> tuple[int, ...]:
    order = np.argsort(margins, kind="stable")[:_EXAMPLES]
    return tuple(int(rows[number]) for number in order)


@dataclass(frozen=True)
class AlikeWords:
    """Two labels for which a source outlines the same place.

    Attributes:
        source: who was asked.
        labels: the two labels.
        images: images on which the source found both.
        share: of these, those on which it outlined the same place.
    """

    source: str
    labels: tuple[str, str]
    images: int
    share: float


@dataclass(frozen=True)
class StrayWord:
    """A label for which a source outlines what people gave another label.

    Attributes:
        source: who was asked.
        label: the label.
        instead: the label of what was outlined.
        images: images that show both.
        share: of these, those where the other label's regions fit the answer better.
    """

    source: str
    label: str
    instead: str
    images: int
    share: float


class WordsTally:
    """Collects what sources outline when they are asked for labels, image by image."""

    def __init__(self) -> None:
        self._same: dict[tuple[str, str, str], list[bool]] = defaultdict(list)
        self._stray: dict[tuple[str, str, str], list[bool]] = defaultdict(list)

    def add(
        self, source: str, asked: Mapping[str, BoolMask], truth: Mapping[str, BoolMask]
    ) -> None:
        """Adds one image.

        Args:
            source: who was asked.
            asked: label -> (H, W) bool, what the source outlined; without labels it did not find.
            truth: label -> (H, W) bool, all regions with that label.
        """
        for first, second in combinations(sorted(asked), 2):
            is_same = mask_iou(asked[first], asked[second]) >= SAME_PLACE
            self._same[source, first, second].append(is_same)
        for label, mask in asked.items():
            if label not in truth:
                continue
            own = mask_iou(mask, truth[label])
            for other in truth.keys() - {label}:
                fit = mask_iou(mask, truth[other])
                is_stray = fit >= SAME_PLACE and fit > own
                self._stray[source, label, other].append(is_stray)

    def alike(self) -> tuple[AlikeWords, ...]:
        """Returns the pairs of labels with the same answers, the most alike first."""
        found = (
            AlikeWords(source, (first, second), len(seen), sum(seen) / len(seen))
            for (source, first, second), seen in self._same.items()
            if _is_often(seen)
        )
        return tuple(sorted(found, key=lambda one: (-one.share, one.labels)))

    def stray(self) -> tuple[StrayWord, ...]:
        """Returns the labels that mean another label's regions, the most frequent first."""
        found = (
            StrayWord(source, label, other, len(seen), sum(seen) / len(seen))
            for (source, label, other), seen in self._stray.items()
            if _is_often(seen)
        )
        return tuple(sorted(found, key=lambda one: (-one.share, one.label)))


def _is_often(seen: Sequence[bool]) -> bool:
    return len(seen) >= LEAST_IMAGES and sum(seen) >= SAME_PLACE * len(seen)


def same_spelling(labels: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Returns the sets of labels that differ by case, plural or punctuation only."""
    spelled: dict[str, list[str]] = defaultdict(list)
    for label in dict.fromkeys(labels):
        spelled[normalise(label)].append(label)
    return tuple(tuple(members) for members in spelled.values() if len(members) > 1)
