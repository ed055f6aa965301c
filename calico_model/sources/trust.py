"""How far a source is believed about a label: counts of judged masks, and what follows from them.

Counts are sums, so those of several groups are added. A source that was right about other labels is
believed about a new one until its masks of that label are judged: what all labels say together is
the prior of a Beta distribution for each (empirical Bayes, Robbins 1956), and counts the more, the
less the labels differ. Knows numbers and names; not masks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from calico_model.sources.source import Ability

SILENT_BELOW = 0.35  # of its masks are kept; below it a source costs more corrections than it saves
_PRIOR_KEPT, _PRIOR_STRENGTH = 0.6, 2.0  # of a source that nobody has judged
# What all labels together count, in masks of one label: the least where a source knows some labels
# and guesses others, the most where it is the same with all.
_LEAST_STRENGTH, _MOST_STRENGTH = 1.0, 4.0
_FEWEST_LABELS = 3  # from which it shows whether they differ
_SURE_FROM = 4.0  # judged masks, of the label and of the prior, from which a source can be silent
_STEP = 0.05  # of trust in answers: else every correction would make all kept answers anew
_LARGEST_VOTE = 3.0  # natural log-odds: no source alone makes a mask more certain than 95 %


class TrustKey(NamedTuple):
    """What is believed separately: a source, about a label, in one kind of question."""

    source: str
    ability: Ability
    label: str


@dataclass(frozen=True)
class TrustCounts:
    """Judged masks of one source for one label.

    Attributes:
        proposals: masks that the source gave.
        kept: of these, how many an accepted region of the label overlaps by IoU >= 0.5.
        overlap: sum of the IoU of each mask with its accepted region, 0 without one.
        regions: accepted regions of the label that the source was asked for.

    Raises:
        ValueError: a number is negative or not finite, or more masks were kept than given.
    """

    proposals: int = 0
    kept: int = 0
    overlap: float = 0.0
    regions: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.kept <= min(self.proposals, self.regions):
            raise ValueError(
                f"kept: expected 0 to {min(self.proposals, self.regions)}, got {self.kept}"
            )
        if not 0.0 <= self.overlap <= self.proposals + 1e-6:
            raise ValueError(f"overlap: expected 0 to {self.proposals}, got {self.overlap}")

    def __add__(self, other: TrustCounts) -> TrustCounts:
        return TrustCounts(
            self.proposals + other.proposals,
            self.kept + other.kept,
            self.overlap + other.overlap,
            self.regions + other.regions,
        )


@dataclass(frozen=True)
class SourceTrust:
    """What the counts say about one source and label.

    Attributes:
        trust: expected IoU of its next mask with what the annotator accepts, in (0, 1); a mask
            that is removed counts 0.
        precision: chance that its next mask is kept, in (0, 1).
        recall: chance that it finds an accepted region, in (0, 1).
        proposals: masks of this label that were judged.
        is_silent: whether its masks of the label are left out of the answer.
    """

    trust: float
    precision: float
    recall: float
    proposals: int
    is_silent: bool

    def rounded(self) -> SourceTrust:
        """Returns the same in steps of 0.05, without `proposals`: what an answer depends on."""
        trust, precision, recall = (
            min(max(round(value / _STEP) * _STEP, 0.02), 0.98)
            for value in (self.trust, self.precision, self.recall)
        )
        return SourceTrust(trust, precision, recall, 0, self.is_silent)

    @property
    def support(self) -> float:
        """Log-odds that a mask is right because this source gave it."""
        return _bounded(_log_odds(self.precision))

    @property
    def doubt(self) -> float:
        """Log-odds, at most 0, that a mask is right although this source did not give it."""
        return _bounded(math.log(1.0 - self.recall))

    @property
    def vote(self) -> float:
        """Weight of its pixels in an outline, > 0 (weighted majority, Nitzan and Paroush 1982)."""
        return max(0.05, _bounded(_log_odds(self.trust)))


class TrustTable:
    """Trust in every source, about every label.

    Args:
        counts: of all judged masks; () for a project without corrections.
    """

    def __init__(self, counts: Mapping[TrustKey, TrustCounts] | None = None) -> None:
        self.counts: Mapping[TrustKey, TrustCounts] = dict(counts or {})

    def of(self, source: str, ability: Ability, label: str | None) -> SourceTrust:
        """Returns the trust in a source about a label; None asks about all labels together."""
        pool = self._pools.get((source, ability), _NOTHING)
        own = TrustCounts()
        if label is not None:
            own = self.counts.get(TrustKey(source, ability, label), own)
        total, strength = pool.total, pool.strength
        overlap = _mean(total.overlap, total.proposals, _PRIOR_KEPT, _PRIOR_STRENGTH)
        kept = _mean(total.kept, total.proposals, _PRIOR_KEPT, _PRIOR_STRENGTH)
        found = _mean(total.kept, total.regions, _PRIOR_KEPT, _PRIOR_STRENGTH)
        judged = total.proposals if label is None else own.proposals
        precision = _mean(own.kept, own.proposals, kept, strength)
        return SourceTrust(
            trust=_mean(own.overlap, own.proposals, overlap, strength),
            precision=precision,
            recall=_mean(own.kept, own.regions, found, strength),
            proposals=judged,
            is_silent=precision < SILENT_BELOW and judged + strength >= _SURE_FROM,
        )

    def answering(self, source: str, ability: Ability, label: str | None) -> SourceTrust:
        """Returns the trust with which a source takes part in an answer: `of`, rounded."""
        return self.of(source, ability, label).rounded()

    def labels(self) -> tuple[str, ...]:
        """Returns all labels that a source was judged on, in alphabetical order."""
        return tuple(sorted({key.label for key in self.counts}))

    @cached_property
    def state(self) -> str:
        """Hash of all that `answering` returns: a kept answer is made anew when it differs."""
        digest = hashlib.sha256()
        questions: set[tuple[str, Ability, str | None]] = set(self.counts)
        for source, ability in self._pools:
            questions |= {(source, ability, None), (source, ability, "")}  # "": any new label
        lines = sorted(f"{question} {self.answering(*question)}" for question in questions)
        digest.update("\n".join(lines).encode())
        return digest.hexdigest()[:16]

    @cached_property
    def _pools(self) -> Mapping[tuple[str, Ability], _Pool]:
        """What is known of each source and ability over all labels."""
        labels: dict[tuple[str, Ability], list[TrustCounts]] = {}
        for key, counts in self.counts.items():
            labels.setdefault((key.source, key.ability), []).append(counts)
        return {place: _Pool.of(counts) for place, counts in labels.items()}


@dataclass(frozen=True)
class _Pool:
    """All labels of one source: their sum, and what it counts for one of them, in masks."""

    total: TrustCounts
    strength: float

    @staticmethod
    def of(labels: Sequence[TrustCounts]) -> _Pool:
        """Adds up labels, and estimates by their spread how much they tell about each other.

        Moments of the beta-binomial distribution (Kleinman 1973).
        """
        total = sum(labels, TrustCounts())
        judged = [one for one in labels if one.proposals]
        masks = total.proposals
        spare = masks - sum(one.proposals**2 for one in judged) / masks if masks else 0.0
        if len(judged) < _FEWEST_LABELS or spare <= 0.0:
            return _Pool(total, _MOST_STRENGTH)
        mean = total.kept / masks
        spread = sum(one.proposals * (one.kept / one.proposals - mean) ** 2 for one in judged)
        # What is left of the spread after the chance of drawing so few masks.
        variance = (spread - (len(judged) - 1) * mean * (1.0 - mean)) / spare
        if variance <= 0.0:
            return _Pool(total, _MOST_STRENGTH)
        strength = mean * (1.0 - mean) / variance - 1.0
        return _Pool(total, min(max(strength, _LEAST_STRENGTH), _MOST_STRENGTH))


_NOTHING = _Pool(TrustCounts(), _MOST_STRENGTH)


def add_counts(parts: Iterable[Mapping[TrustKey, TrustCounts]]) -> dict[TrustKey, TrustCounts]:
    """Adds the counts of several groups."""
    total: dict[TrustKey, TrustCounts] = {}
    for part in parts:
        for key, counts in part.items():
            total[key] = total.get(key, TrustCounts()) + counts
    return total


def _mean(good: float, count: float, prior: float, strength: float) -> float:
    """Mean of a Beta distribution after `count` trials, kept off 0 and 1."""
    return min(max((good + prior * strength) / (count + strength), 1e-3), 1.0 - 1e-3)


def _log_odds(chance: float) -> float:
    return math.log(chance / (1.0 - chance))


def _bounded(log_odds: float) -> float:
    return min(max(log_odds, -_LARGEST_VOTE), _LARGEST_VOTE)
