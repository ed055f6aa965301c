"""The gate: how a candidate and the current version measured, in; published or why not, out.

Pure: values in, values out. Quality is the mean of strict mIoU and Recall, in points of percent.

| a candidate is refused if                                                        | by     |
|----------------------------------------------------------------------------------|--------|
| its new corrections contradict each other and the earlier ones                   | cross  |
| quality on corrections kept for testing falls, and not by chance                 | paired |
| it falls so far that chance need not be asked                                    | points |
| of the project's earlier corrections, which it rehearses, many regions are lost  | paired |
| the new corrections come out no better than before, and are not known already    | points |

It protects what the people of the project need: their own older labels and accepted regions. What
happens on the data of the base is measured and shown, and decides nothing: other projects keep the
base anyway. The current version may know earlier corrections by heart, so a candidate that learns
more groups in the same time is a little worse on them; one that forgets loses most of a label. A
first version is compared with silence, since nothing is shown before it where the
base knows nothing. Few groups are kept for testing, and none at first: whether corrections can be
learned at all is then asked of every group, left out in turn (learnability.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from backend.learning.paired_test import Regions, has_fallen, has_lost


@dataclass(frozen=True)
class GatePolicy:
    """What is asked of a candidate; points of percent unless said otherwise.

    Attributes:
        tolerance: fall that still counts as holding.
        collapse: fall that is refused whatever chance may have done.
        margin: share of the regions of older labels, known by heart, that may be lost.
        least_held_out: groups kept for testing, from which their quality decides.
        known: quality of the new corrections from which they count as known already.
        least_asked: regions that the other groups were asked about, from which the answer counts.
        agreement: share in [0, 1] of new corrections that the others predict, below which they
            disagree, if the earlier ones suffer from them as well.
        suffering: share in [0, 1] of what was predicted of the earlier ones without the new ones,
            below which they suffer.
        nonsense: agreement below which even first corrections cannot be right.
    """

    tolerance: float = 0.5
    collapse: float = 10.0
    margin: float = 30.0
    least_held_out: int = 3
    known: float = 20.0
    least_asked: int = 8
    agreement: float = 0.12
    suffering: float = 0.9
    nonsense: float = 0.04


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
class Agreement:
    """How far corrections can be predicted from each other; shares in [0, 1].

    Attributes:
        new: of the new corrections, from all others.
        asked: how many new regions were asked about.
        earlier: of the earlier corrections, from all others; None without any.
        earlier_alone: the same, from earlier ones alone.
    """

    new: float
    asked: int
    earlier: float | None = None
    earlier_alone: float | None = None


@dataclass(frozen=True)
class Evidence:
    """Everything the gate looks at.

    Attributes:
        held_out: corrections kept for testing, None if there are none yet.
        earlier: corrections that an earlier version learned from, None if there are none.
        learned: new corrections, None if none of them can be measured.
        probe: groups of base data, None where they were not measured.
        agreement: between corrections, None where the model cannot tell.
        old_labels: names the current version had learned.
    """

    held_out: Comparison | None
    learned: Comparison | None
    probe: Comparison | None
    earlier: Comparison | None = None
    agreement: Agreement | None = None
    old_labels: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Verdict:
    """The decision.

    Attributes:
        is_accepted: publish it.
        is_provisional: nothing was kept for testing to decide by.
        reason: one sentence with the figures, and what to do about a refusal.
    """

    is_accepted: bool
    is_provisional: bool
    reason: str


def judge(policy: GatePolicy, evidence: Evidence) -> Verdict:
    """Decides about a candidate that learned new corrections."""
    return _judged(
        policy,
        evidence,
        (
            _not_finite(evidence),
            _contradicts(policy, evidence),
            _worse(policy, evidence),
            _forgotten(policy, evidence),
            _useless(policy, evidence),
        ),
    )


def judge_refinement(policy: GatePolicy, evidence: Evidence) -> Verdict:
    """Decides about a candidate that went on learning what the current version knows."""
    judged = _tested(policy, evidence) or evidence.earlier
    settled = None
    if judged is not None and judged.gain < policy.tolerance:
        settled = f"no better than the current version, which stays: {_figures(judged)}"
    refused = (
        _not_finite(evidence),
        _worse(policy, evidence),
        _forgotten(policy, evidence),
        settled,
    )
    return _judged(policy, evidence, refused)


def _judged(policy: GatePolicy, evidence: Evidence, refused: tuple[str | None, ...]) -> Verdict:
    tested = _tested(policy, evidence)
    is_provisional = tested is None
    for reason in refused:
        if reason is not None:
            return Verdict(False, is_provisional, reason)
    judged = tested or evidence.learned or evidence.earlier
    if judged is None:
        return Verdict(False, is_provisional, "nothing could be measured: no image could be read")
    name = "corrections kept for testing" if tested else "its own corrections"
    return Verdict(True, is_provisional, f"{name} {_figures(judged)}")


def _tested(policy: GatePolicy, evidence: Evidence) -> Comparison | None:
    """Corrections kept for testing, where they are enough to decide by."""
    found = evidence.held_out
    return found if found is not None and found.after.groups >= policy.least_held_out else None


def _not_finite(evidence: Evidence) -> str | None:
    for name, found in (
        ("corrections kept for testing", evidence.held_out),
        ("earlier corrections", evidence.earlier),
        ("new corrections", evidence.learned),
    ):
        if found is not None and not (found.before.is_finite and found.after.is_finite):
            return f"quality on {name} is not a number; the current version stays"
    return None


def _contradicts(policy: GatePolicy, evidence: Evidence) -> str | None:
    found = evidence.agreement
    if found is None or found.asked < policy.least_asked:
        return None
    if found.earlier is None or found.earlier_alone is None:
        is_wrong = found.new < policy.nonsense
    else:
        suffers = found.earlier < policy.suffering * found.earlier_alone
        is_wrong = found.new < policy.agreement and suffers
    if not is_wrong:
        return None
    return (
        f"the new corrections contradict the others: of their regions only "
        f"{100 * found.new:.0f} in 100 can be told from what was corrected elsewhere; look through "
        "the newest annotations for wrong names and misplaced masks, correct them, and train again"
    )


def _worse(policy: GatePolicy, evidence: Evidence) -> str | None:
    found = _tested(policy, evidence)
    if found is None or not _falls(found, policy):
        return None
    return (
        f"worse on corrections kept for testing: {_figures(found)}; the current version stays, "
        "more corrected groups help"
    )


def _forgotten(policy: GatePolicy, evidence: Evidence) -> str | None:
    pair = evidence.earlier
    if pair is None:
        return None
    before, there = _found(pair.before, evidence.old_labels)
    after, _ = _found(pair.after, evidence.old_labels)
    share = 100 * (before - after) / max(before, 1)
    if share <= policy.margin:
        return None
    if not has_lost(pair.before.regions, pair.after.regions, evidence.old_labels):
        return None
    return (
        f"forgets older labels: {after} of {there} of their regions found, {before} before; "
        "the current version stays; train again, and look whether labels were renamed"
    )


def _useless(policy: GatePolicy, evidence: Evidence) -> str | None:
    learned = evidence.learned
    if learned is None or learned.gain > 0:
        return None
    # Accepted predictions are corrections, too: what was known already cannot rise.
    if learned.after.score >= policy.known and learned.gain >= -policy.collapse:
        return None
    return (
        f"learned nothing of the new corrections: {_figures(learned)}; the current version stays, "
        "more corrected groups of the same kind help"
    )


def _falls(found: Comparison, policy: GatePolicy) -> bool:
    """Whether quality falls by more than is allowed, and not by chance."""
    if found.gain >= -policy.tolerance:
        return False
    if found.gain < -policy.collapse or not found.before.regions:
        return True
    return has_fallen(found.before.regions, found.after.regions)


def _found(quality: Quality, labels: frozenset[str]) -> tuple[int, int]:
    counts = [count for label, count in quality.by_label.items() if label in labels]
    return sum(found for found, _ in counts), sum(there for _, there in counts)


def _figures(found: Comparison) -> str:
    return (
        f"{found.before.score:.1f} -> {found.after.score:.1f} "
        f"(mIoU {found.before.miou:.1f} -> {found.after.miou:.1f}, "
        f"Recall {found.before.recall:.1f} -> {found.after.recall:.1f}, "
        f"{found.after.groups} groups)"
    )
