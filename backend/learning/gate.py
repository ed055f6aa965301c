"""The gate: decides whether a candidate version is published, from how both versions measured.

Pure: values in, values out. Quality is the mean of strict mIoU and Recall, in points of percent.

| a candidate is rejected if                                                    | decided by       |
|-------------------------------------------------------------------------------|------------------|
| its new corrections contradict each other and the earlier ones                | leave-one-out    |
| quality on held-out corrections falls, and not by chance                      | paired test      |
| quality on held-out corrections falls by more than `collapse`                 | points           |
| many regions of the project's earlier corrections are no longer found         | sign test        |
| quality on the new corrections does not rise, and was not high before         | points           |

The gate protects what the project needs: its older labels and its accepted regions. Quality on base
data is measured and shown, but decides nothing: other projects keep the base anyway. The current
version may know earlier corrections by heart, so a candidate that learns more groups in the same
time is a little worse on them; a candidate that forgets loses most regions of a label. A first
version is compared with the base, which often predicts nothing for the project's labels. Few groups
are held out, and none at first: instead, each group is left out in turn and predicted from the
others (calico_model/training/online/learnability.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from backend.learning.paired_test import Regions, has_fallen, has_lost


@dataclass(frozen=True)
class GatePolicy:
    """Limits of the gate, in points of percent unless another unit is named.

    Attributes:
        tolerance: fall of quality on held-out groups that is still allowed.
        collapse: fall of quality that is rejected without a test for chance.
        margin: percent of the regions of older labels that may be lost.
        least_held_out: number of held-out groups from which their quality decides.
        known: quality on the new corrections above which nothing has to be learned from them.
        least_asked: number of left-out regions from which the leave-one-out result counts.
        agreement: share in [0, 1] of new corrections predicted from the others, below which they
            contradict the others, if the earlier ones suffer as well.
        suffering: the earlier corrections suffer if less than this share of what is predicted
            without the new ones is predicted with them; in [0, 1].
        nonsense: agreement in [0, 1] below which new corrections are rejected without asking
            whether earlier ones suffer: nothing is learned from what nothing else tells.
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
    """Quality of one version on some groups.

    Attributes:
        miou, recall: strict, in percent.
        groups: number of groups.
        by_label: true name -> (regions found, true regions).
        regions: true regions per group, see `Regions`; empty where they were not measured.
    """

    miou: float
    recall: float
    groups: int
    by_label: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    regions: Regions = ()

    @property
    def score(self) -> float:
        """Mean of mIoU and Recall, in percent."""
        return (self.miou + self.recall) / 2

    @property
    def is_finite(self) -> bool:
        """Whether neither figure is NaN or infinite."""
        return math.isfinite(self.miou) and math.isfinite(self.recall)


@dataclass(frozen=True)
class QualityComparison:
    """Quality of the current version (before) and of the candidate (after) on the same groups."""

    before: Quality
    after: Quality

    @property
    def gain(self) -> float:
        """Difference of the scores, in points."""
        return self.after.score - self.before.score


@dataclass(frozen=True)
class CorrectionAgreement:
    """How well corrections are predicted from each other, as shares in [0, 1].

    Attributes:
        new: share of the new corrections' regions predicted from all other corrections.
        asked: number of new regions that were left out and predicted.
        earlier: share of the earlier corrections' regions predicted from all others, None without
            earlier corrections.
        earlier_alone: the same, predicted from earlier corrections alone.
    """

    new: float
    asked: int
    earlier: float | None = None
    earlier_alone: float | None = None


@dataclass(frozen=True)
class GateEvidence:
    """All measurements that the gate decides on.

    Attributes:
        held_out: on held-out corrections, None without any.
        learned: on new corrections, None if none of them can be measured.
        probe: on groups of base data, None where they were not measured.
        earlier: on corrections that an earlier version learned, None without any.
        agreement: between corrections, None where the model has no dense head.
        old_labels: names that the current version had learned.
    """

    held_out: QualityComparison | None
    learned: QualityComparison | None
    probe: QualityComparison | None
    earlier: QualityComparison | None = None
    agreement: CorrectionAgreement | None = None
    old_labels: frozenset[str] = frozenset()


class VerdictKind(StrEnum):
    """The rule that decided; explanation.py says each in whole sentences."""

    BETTER = "better"
    NOT_FINITE = "not_finite"
    CONTRADICTS = "contradicts"
    WORSE = "worse"
    FORGETS = "forgets"
    USELESS = "useless"
    NO_BETTER = "no_better"
    UNMEASURED = "unmeasured"


@dataclass(frozen=True)
class Verdict:
    """The decision.

    Attributes:
        is_accepted: whether the candidate is published.
        is_provisional: too few held-out groups to decide by.
        reason: one sentence with the figures, and what to do after a rejection.
        kind: the rule that decided.
    """

    is_accepted: bool
    is_provisional: bool
    reason: str
    kind: VerdictKind


def judge(policy: GatePolicy, evidence: GateEvidence) -> Verdict:
    """Decides about a candidate that learned new corrections."""
    return _verdict(
        policy,
        evidence,
        {
            VerdictKind.NOT_FINITE: _not_finite(evidence),
            VerdictKind.CONTRADICTS: _contradicts(policy, evidence),
            VerdictKind.WORSE: _worse(policy, evidence),
            VerdictKind.FORGETS: _forgotten(policy, evidence),
            VerdictKind.USELESS: _useless(policy, evidence),
        },
    )


def judge_refinement(policy: GatePolicy, evidence: GateEvidence) -> Verdict:
    """Decides about a candidate that went on learning what the current version knows."""
    comparison = _tested(policy, evidence) or evidence.earlier
    settled = None
    if comparison is not None and comparison.gain < policy.tolerance:
        settled = f"no better than the current version, which stays: {_figures(comparison)}"
    rejections = {
        VerdictKind.NOT_FINITE: _not_finite(evidence),
        VerdictKind.WORSE: _worse(policy, evidence),
        VerdictKind.FORGETS: _forgotten(policy, evidence),
        VerdictKind.NO_BETTER: settled,
    }
    return _verdict(policy, evidence, rejections)


def gate_figures(evidence: GateEvidence, verdict: Verdict) -> dict[str, Any]:
    """Returns the evidence as JSON keeps it: set -> [before, after] of each metric, in percent.

    `older_labels` counts the regions of labels that the current version had learned: found
    [before, after], and how many there are.
    """
    figures: dict[str, Any] = {
        "provisional": verdict.is_provisional,
        "verdict": verdict.kind.value,
    }
    for name in ("held_out", "earlier", "learned", "probe"):
        pair: QualityComparison | None = getattr(evidence, name)
        if pair is None or not (pair.before.is_finite and pair.after.is_finite):
            continue
        figures[name] = {
            "mIoU": [round(pair.before.miou, 2), round(pair.after.miou, 2)],
            "Recall": [round(pair.before.recall, 2), round(pair.after.recall, 2)],
            "groups": pair.after.groups,
        }
    if (agreement := evidence.agreement) is not None:
        figures["agreement"] = {
            "new": round(100 * agreement.new, 1),
            "regions": agreement.asked,
        }
    if evidence.earlier is not None and evidence.old_labels:
        before, regions = _regions_found(evidence.earlier.before, evidence.old_labels)
        after, _ = _regions_found(evidence.earlier.after, evidence.old_labels)
        figures["older_labels"] = {"found": [before, after], "regions": regions}
    return figures


def _verdict(
    policy: GatePolicy, evidence: GateEvidence, rejections: Mapping[VerdictKind, str | None]
) -> Verdict:
    """Rejects for the first reason in `rejections`, accepts if all of them are None."""
    tested = _tested(policy, evidence)
    is_provisional = tested is None
    for kind, reason in rejections.items():
        if reason is not None:
            return Verdict(False, is_provisional, reason, kind)
    comparison = tested or evidence.learned or evidence.earlier
    if comparison is None:
        reason = "nothing could be measured: no image could be read"
        return Verdict(False, is_provisional, reason, VerdictKind.UNMEASURED)
    name = "corrections kept for testing" if tested else "its own corrections"
    reason = f"{name} {_figures(comparison)}"
    return Verdict(True, is_provisional, reason, VerdictKind.BETTER)


def _tested(policy: GatePolicy, evidence: GateEvidence) -> QualityComparison | None:
    """Quality on held-out corrections, None where they are too few to decide by."""
    held_out = evidence.held_out
    if held_out is None or held_out.after.groups < policy.least_held_out:
        return None
    return held_out


def _not_finite(evidence: GateEvidence) -> str | None:
    for name, comparison in (
        ("corrections kept for testing", evidence.held_out),
        ("earlier corrections", evidence.earlier),
        ("new corrections", evidence.learned),
    ):
        if comparison is None:
            continue
        if not (comparison.before.is_finite and comparison.after.is_finite):
            return f"quality on {name} is not a number; the current version stays"
    return None


def _contradicts(policy: GatePolicy, evidence: GateEvidence) -> str | None:
    agreement = evidence.agreement
    if agreement is None or agreement.asked < policy.least_asked:
        return None
    is_wrong = agreement.new < policy.nonsense
    if agreement.earlier is not None and agreement.earlier_alone is not None:
        suffers = agreement.earlier < policy.suffering * agreement.earlier_alone
        is_wrong = is_wrong or (agreement.new < policy.agreement and suffers)
    if not is_wrong:
        return None
    return (
        f"the new corrections contradict the others: of their regions only "
        f"{100 * agreement.new:.0f} in 100 can be told from what was corrected elsewhere; look "
        "through the newest annotations for wrong names and misplaced masks, correct them, and "
        "train again"
    )


def _worse(policy: GatePolicy, evidence: GateEvidence) -> str | None:
    tested = _tested(policy, evidence)
    if tested is None or not _falls(tested, policy):
        return None
    return (
        f"worse on corrections kept for testing: {_figures(tested)}; the current version stays, "
        "more corrected groups help"
    )


def _forgotten(policy: GatePolicy, evidence: GateEvidence) -> str | None:
    pair = evidence.earlier
    if pair is None:
        return None
    before, total = _regions_found(pair.before, evidence.old_labels)
    after, _ = _regions_found(pair.after, evidence.old_labels)
    lost_percent = 100 * (before - after) / max(before, 1)
    if lost_percent <= policy.margin:
        return None
    if not has_lost(pair.before.regions, pair.after.regions, evidence.old_labels):
        return None
    return (
        f"forgets older labels: {after} of {total} of their regions found, {before} before; "
        "the current version stays; train again, and look whether labels were renamed"
    )


def _useless(policy: GatePolicy, evidence: GateEvidence) -> str | None:
    learned = evidence.learned
    if learned is None or learned.gain > 0:
        return None
    # Accepted predictions are corrections, too: quality that was high before cannot rise.
    if learned.after.score >= policy.known and learned.gain >= -policy.collapse:
        return None
    return (
        f"learned nothing of the new corrections: {_figures(learned)}; the current version stays, "
        "more corrected groups of the same kind help"
    )


def _falls(comparison: QualityComparison, policy: GatePolicy) -> bool:
    """Whether quality falls by more than is allowed, and not by chance."""
    if comparison.gain >= -policy.tolerance:
        return False
    if comparison.gain < -policy.collapse or not comparison.before.regions:
        return True
    return has_fallen(comparison.before.regions, comparison.after.regions)


def _regions_found(quality: Quality, labels: frozenset[str]) -> tuple[int, int]:
    """Number of regions with these labels: (found, true)."""
    counts = [count for label, count in quality.by_label.items() if label in labels]
    return sum(found for found, _ in counts), sum(total for _, total in counts)


def _figures(comparison: QualityComparison) -> str:
    before, after = comparison.before, comparison.after
    return (
        f"{before.score:.1f} -> {after.score:.1f} "
        f"(mIoU {before.miou:.1f} -> {after.miou:.1f}, "
        f"Recall {before.recall:.1f} -> {after.recall:.1f}, "
        f"{after.groups} groups)"
    )
