"""The gate: how a candidate and the current version measured, in; published or why not, out.

Pure: values in, values out. Quality is the mean of strict mIoU and Recall, in points of percent.

| a candidate is refused if                                                        | by     |
|----------------------------------------------------------------------------------|--------|
| held-out quality falls by more than the tolerance, and not by chance             | paired |
| the base probe set falls by more than the margin, and not by chance              | paired |
| of older labels, more of the held-out regions are lost than found, not by chance | paired |
| any of the three falls so far that chance need not be asked                      | points |
| neither held-out nor learned corrections come out clearly better                 | points |
| what it learned from stays below half of what it never saw                       | points |

Few groups are held out at first, and every update moves single regions by chance. So the same
regions are compared one by one before and after (`paired.py`): of candidates that change nothing,
one in ten is refused. Without held-out corrections the decision is provisional: what was
corrected must come out better than before, and the base probe set still decides about forgetting.
The last line is for wrong corrections that come with a rehearsal of right ones: held-out quality
may rise although nobody could learn what was new.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from backend.learning.paired import Regions, has_fallen, has_lost

_LEAST_KNOWN = 0.5  # of held-out quality; what is wrong comes out at nothing


@dataclass(frozen=True)
class GatePolicy:
    """What is asked of a candidate; everything in points of percent.

    Attributes:
        tolerance: fall of held-out quality that still counts as holding.
        margin: fall of older labels, and of the base probe set, that is one too many.
        collapse: fall of any of them that is refused whatever chance may have done.
        clear: rise of held-out quality that speaks for itself, unless what was learned stays far
            below it; with less, the learned corrections have to rise, too.
        learned: rise of theirs that is then enough. What cannot be learned, because it is wrong,
            stays below it.
    """

    tolerance: float = 0.5
    margin: float = 2.0
    collapse: float = 10.0
    clear: float = 2.0
    learned: float = 5.0


@dataclass(frozen=True)
class Quality:
    """What a version reached on some groups.

    Attributes:
        miou, recall: strict, in percent.
        groups: how many groups.
        by_label: true name -> (regions found, regions there).
        regions: per group its true regions, see `Regions`; empty where nobody measured them.
    """

    miou: float
    recall: float
    groups: int
    by_label: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    regions: Regions = ()

    @property
    def score(self) -> float:
        """Mean of the two, in percent."""
        return (self.miou + self.recall) / 2

    @property
    def is_finite(self) -> bool:
        """Whether both are numbers."""
        return math.isfinite(self.miou) and math.isfinite(self.recall)


@dataclass(frozen=True)
class Comparison:
    """The same groups seen by the current version and by the candidate."""

    before: Quality
    after: Quality

    @property
    def gain(self) -> float:
        """Points of quality."""
        return self.after.score - self.before.score


@dataclass(frozen=True)
class Evidence:
    """Everything the gate looks at.

    Attributes:
        held_out: held-out corrections, None if there are none yet.
        learned: corrections that were trained on, None if none of them can be measured.
        probe: groups of base data, None if the base has none.
        old_labels: names the current version had learned.
    """

    held_out: Comparison | None
    learned: Comparison | None
    probe: Comparison | None
    old_labels: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Verdict:
    """The decision.

    Attributes:
        is_accepted: publish it.
        is_provisional: nothing was held out to decide by.
        reason: one sentence with the figures.
    """

    is_accepted: bool
    is_provisional: bool
    reason: str


def judge(policy: GatePolicy, evidence: Evidence) -> Verdict:
    """Decides about a candidate."""
    is_provisional = evidence.held_out is None
    for refused in (
        _not_finite(evidence),
        _worse(policy, evidence),
        _forgotten(policy, evidence),
        _lost(policy, evidence),
        _useless(policy, evidence),
    ):
        if refused is not None:
            return Verdict(False, is_provisional, refused)
    judged, name = (
        (evidence.learned, "learned corrections")
        if evidence.held_out is None
        else (evidence.held_out, "held-out corrections")
    )
    if judged is None:
        return Verdict(False, is_provisional, "nothing was measured")
    return Verdict(True, is_provisional, _figures(name, judged))


def is_clear(policy: GatePolicy, held_out: Comparison | None) -> bool:
    """Whether held-out quality rises so far that few of the learned corrections need be asked."""
    return held_out is not None and held_out.gain >= policy.clear


def _not_finite(evidence: Evidence) -> str | None:
    for name, found in (
        ("held-out corrections", evidence.held_out),
        ("learned corrections", evidence.learned),
        ("the base probe set", evidence.probe),
    ):
        if found is not None and not (found.before.is_finite and found.after.is_finite):
            return f"quality on {name} is not a number"
    return None


def _worse(policy: GatePolicy, evidence: Evidence) -> str | None:
    found = evidence.held_out
    if found is None or not _falls(found, policy.tolerance, policy.collapse):
        return None
    return f"worse: {_figures('held-out corrections', found)}"


def _forgotten(policy: GatePolicy, evidence: Evidence) -> str | None:
    found = evidence.probe
    if found is None or not _falls(found, policy.margin, policy.collapse):
        return None
    return f"forgets the base: {_figures('the base probe set', found)}"


def _lost(policy: GatePolicy, evidence: Evidence) -> str | None:
    if evidence.held_out is None:
        return None
    pair = evidence.held_out
    before, there = _found(pair.before, evidence.old_labels)
    after, _ = _found(pair.after, evidence.old_labels)
    share = 100 * (before - after) / max(there, 1)
    is_paired = bool(pair.before.regions)
    # One region of few is chance, not forgetting.
    is_sure = (
        has_lost(pair.before.regions, pair.after.regions, evidence.old_labels)
        if is_paired
        else before - after > 1
    )
    if share <= policy.margin or not is_sure:
        return None
    return f"forgets older labels: {after} of {there} regions found, {before} before"


def _useless(policy: GatePolicy, evidence: Evidence) -> str | None:
    learned, held_out = evidence.learned, evidence.held_out
    least = policy.learned if held_out is not None else 0.0
    if learned is None or learned.gain > least:
        return None
    # Accepted predictions are corrections, too: what was known already cannot rise.
    is_known = held_out is not None and learned.after.score >= _LEAST_KNOWN * held_out.after.score
    if is_known and is_clear(policy, held_out):
        return None
    return f"learned little: {_figures('learned corrections', learned)}"


def _falls(found: Comparison, allowed: float, collapse: float) -> bool:
    """Whether quality falls by more than is allowed, and not by chance."""
    if found.gain >= -allowed:
        return False
    if found.gain < -collapse or not found.before.regions:
        return True
    return has_fallen(found.before.regions, found.after.regions)


def _found(quality: Quality, labels: frozenset[str]) -> tuple[int, int]:
    counts = [count for label, count in quality.by_label.items() if label in labels]
    return sum(found for found, _ in counts), sum(there for _, there in counts)


def _figures(name: str, found: Comparison) -> str:
    return (
        f"{name} {found.before.score:.1f} -> {found.after.score:.1f} "
        f"(mIoU {found.before.miou:.1f} -> {found.after.miou:.1f}, "
        f"Recall {found.before.recall:.1f} -> {found.after.recall:.1f}, "
        f"{found.after.groups} groups)"
    )
