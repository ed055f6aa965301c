"""Every verdict, and every end of a training, is said in whole sentences with its figures."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from backend.learning.explanation import (
    explain_running,
    explain_state,
    explain_version,
    explain_waiting,
)
from backend.learning.gate import (
    CorrectionAgreement,
    GateEvidence,
    GatePolicy,
    Quality,
    QualityComparison,
    VerdictKind,
    gate_figures,
    judge,
    judge_refinement,
)
from backend.learning.schedule import Cause, RunState
from backend.learning.training_runs import TrainingRun
from backend.storage.versions import AdapterVersion, VersionStatus

MOMENT = datetime(2026, 3, 1, tzinfo=UTC)


def quality(recall, miou=None, labels=None, groups=4):
    return Quality(recall if miou is None else miou, recall, groups, labels or {})


def pair(before, after, groups=4, miou=(None, None)):
    return QualityComparison(
        quality(before, miou[0], groups=groups), quality(after, miou[1], groups=groups)
    )


def lids(before, after):
    """The same ten regions of the label lid, of which so many are found."""
    found = [
        tuple((("lid", 0.9 if n < hits else 0.0),) for n in range(10)) for hits in (before, after)
    ]
    qualities = [
        Quality(10 * hits, 10 * hits, 10, {"lid": (hits, 10)}, regions)
        for hits, regions in zip((before, after), found, strict=True)
    ]
    return QualityComparison(*qualities)


def evidence(**values):
    return GateEvidence(**{"held_out": None, "learned": None, "probe": None} | values)


def judged(decide=judge, status=None, **values):
    """A version as the store keeps it after a decision about this evidence."""
    seen = evidence(**values)
    verdict = decide(GatePolicy(), seen)
    kept = VersionStatus.CURRENT if verdict.is_accepted else VersionStatus.REJECTED
    return version(status or kept, gate_figures(seen, verdict), verdict.reason)


def version(status, gate=None, reason=None, name="tiny-p7v2-abc", parent="tiny-p7v1-abc"):
    return AdapterVersion(
        id=name, project_id=7, parent_id=parent, uri="7/x", sha256="0" * 64, nbytes=1,
        status=status, upto_seq=9, corrections=5, base="b", created_at=MOMENT,
        gate=gate or {}, reason=reason,
    )  # fmt: skip


def run(state, error=None, cause=Cause.COUNT):
    return TrainingRun(
        id=3, project_id=7, cause=cause, state=state, owner="here/1/2", lease_until=MOMENT,
        stage="measuring", progress=1.0, eta_s=None, upto_seq=9, adapter_id=None, error=error,
        began_at=MOMENT, ended_at=MOMENT,
    )  # fmt: skip


GOOD = pair(10, 40)
VERDICTS = {
    VerdictKind.BETTER: judged(held_out=pair(40, 55), learned=GOOD),
    VerdictKind.NOT_FINITE: judged(learned=pair(10, float("nan"))),
    VerdictKind.CONTRADICTS: judged(learned=GOOD, agreement=CorrectionAgreement(0.02, 12)),
    VerdictKind.WORSE: judged(held_out=pair(55, 40), learned=GOOD),
    VerdictKind.FORGETS: judged(
        learned=GOOD, earlier=lids(10, 4), old_labels=frozenset({"lid"})
    ),
    VerdictKind.USELESS: judged(learned=pair(1.8, 1.4)),
    VerdictKind.NO_BETTER: judged(judge_refinement, earlier=pair(50, 50.2)),
    VerdictKind.UNMEASURED: judged(),
}  # fmt: skip
WHY = {
    VerdictKind.BETTER: "After training it found more of the corrections that are kept for "
    "testing: 40.0 -> 55.0 of 100 regions.",
    VerdictKind.NOT_FINITE: "Its quality could not be computed: a figure is not a number.",
    VerdictKind.CONTRADICTS: "The new corrections contradict the others: only 2 of 100 of their "
    "regions can be predicted from the others.",
    VerdictKind.WORSE: "After training it found fewer of the corrections that are kept for "
    "testing: 55.0 -> 40.0 of 100 regions.",
    VerdictKind.FORGETS: "After training it found fewer regions of earlier labels: 10 -> 4 of 10.",
    VerdictKind.USELESS: "After training it found fewer of your new corrections: 1.8 -> 1.4 of "
    "100 regions.",
    VerdictKind.NO_BETTER: "It went on learning from the same corrections, and that brought too "
    "little: it found more of your own corrections: 50.0 -> 50.2 of 100 regions.",
    VerdictKind.UNMEASURED: "Its quality could not be measured: no image of the corrected groups "
    "could be read.",
}


@pytest.mark.parametrize("kind", list(VerdictKind))
def test_every_verdict_is_said_with_its_figures_and_what_to_do(kind):
    made = VERDICTS[kind]
    assert made.gate["verdict"] == kind
    reason = explain_version(made)
    assert reason.why == WHY[kind]
    assert reason.advice[0].isupper()
    text = f"{reason.why} {reason.advice}".lower()
    for word in ("gate", "held out", "held-out", "the base", "candidate"):
        assert word not in text


def test_every_refusal_says_that_nothing_has_changed():
    served = version(VersionStatus.CURRENT, name="tiny-p7v1-abc")
    for kind, made in VERDICTS.items():
        if kind is VerdictKind.BETTER:
            continue
        said = explain_state(7, run(RunState.REJECTED), made, served)
        assert said.seen == (
            "Annotators see what they saw before: predictions of version tiny-p7v1-abc."
        )
        assert said.why == WHY[kind]
    first = replace(VERDICTS[VerdictKind.USELESS], parent_id=None)
    said = explain_state(7, run(RunState.REJECTED), first, None)
    assert said.seen == "Annotators see what they saw before: predictions of the shipped model."


def test_a_publication_is_said_and_that_it_was_taken_back():
    made = VERDICTS[VerdictKind.BETTER]
    said = explain_state(7, run(RunState.PUBLISHED), made, made)
    assert said.seen == "Annotators see predictions of the new version tiny-p7v2-abc."
    earlier = version(VersionStatus.CURRENT, name="tiny-p7v1-abc")
    back = replace(made, status=VersionStatus.RETIRED, reason="rolled back by hand")
    said = explain_state(7, run(RunState.PUBLISHED), back, earlier)
    assert said.seen == "Annotators see predictions of version tiny-p7v1-abc again."
    assert said.why == "Somebody took it back by hand."
    fallen = "rolled back by itself: annotators accept 10% of its regions over 12 tasks"
    said = explain_version(replace(back, reason=fallen))
    assert said.why == (
        "It was taken back because annotators accept 10% of its regions over 12 tasks."
    )
    # A version that a later one replaced is not taken back.
    assert explain_version(replace(made, status=VersionStatus.RETIRED)) == explain_version(made)
    # After a refusal somebody went back to the shipped model.
    said = explain_state(7, run(RunState.REJECTED), VERDICTS[VerdictKind.WORSE], None)
    assert said.seen == "Annotators see predictions of the shipped model."


def test_a_version_without_corrections_kept_for_testing_says_so():
    said = explain_version(judged(learned=pair(0, 3)))
    assert said.why.startswith("After training it found more of your own corrections: 0.0 -> 3.0")
    assert "Too few corrections are kept for testing yet" in said.why
    fallen = explain_version(judged(learned=pair(90, 85)))
    assert "found fewer of your own corrections: 90.0 -> 85.0" in fallen.why
    assert "The difference is small enough to accept it." in fallen.why
    refined = explain_version(judged(judge_refinement, earlier=pair(50, 60)))
    assert "found more of your earlier corrections: 50.0 -> 60.0" in refined.why


@pytest.mark.parametrize(
    ("recall", "miou", "said"),
    [
        ((0, 0), (0, 0), "it found none of your new corrections, as before."),
        ((0, 0), (1.2, 0.4), "as before; its outlines fit worse: overlap 1.2 -> 0.4 of 100."),
        ((5, 5), (5, 5), "found as many of your new corrections as before, 5.0 of 100 regions."),
        ((5, 6), (9, 5), "found more of your new corrections: 5.0 -> 6.0 of 100 regions, but its "
         "outlines fit worse: overlap 9.0 -> 5.0 of 100."),
        ((6, 5), (5, 6), "found fewer of your new corrections: 6.0 -> 5.0 of 100 regions, but its "
         "outlines fit better: overlap 5.0 -> 6.0 of 100."),
        ((5, 5.01), (5, 4.9), "as before, 5.0 of 100 regions; its outlines fit worse"),
    ],
)  # fmt: skip
def test_the_sentence_never_says_more_than_its_figures(recall, miou, said):
    made = judged(learned=pair(*recall, miou=miou))
    assert made.gate["verdict"] == VerdictKind.USELESS
    assert said in explain_version(made).why


def test_refinements_are_compared_on_what_decided():
    tested = judged(judge_refinement, held_out=pair(50, 50), earlier=pair(50, 60))
    assert (
        "found as many of the corrections that are kept for testing" in explain_version(tested).why
    )


@pytest.mark.parametrize(
    ("state", "error", "why", "advice"),
    [
        (RunState.FAILED, "OSError: full", "The training failed: OSError: full.", "tried again"),
        (RunState.ABANDONED, "its trainer ended without a word", "The trainer ended", "doctor"),
        (RunState.STOPPED, "stopped", "Somebody stopped the training", "by itself"),
        (RunState.STOPPED, None, "Somebody stopped the training", "by itself"),
        (RunState.STOPPED, "there is nothing new to learn from",
         "The training ended early: there is nothing new to learn from.", "Correct the next"),
        (RunState.REJECTED, "nothing to learn from: no new correction has a region with a name",
         "There was nothing to learn from: no new correction has a region with a name.", "names"),
    ],
)  # fmt: skip
def test_a_run_without_a_version_is_said(state, error, why, advice):
    served = version(VersionStatus.CURRENT)
    said = explain_state(7, run(state, error), None, served)
    assert said.seen.startswith("Annotators see what they saw before: predictions of version tiny")
    assert said.why.startswith(why)
    assert advice in said.advice


def test_a_project_that_was_never_trained_says_what_to_do():
    said = explain_state(7, None, None, None)
    assert said.seen == "Annotators see predictions of the shipped model."
    assert "calico train-now --project 7" in said.advice


def test_versions_of_earlier_releases_keep_their_stored_reason():
    refused = explain_version(version(VersionStatus.REJECTED, {}, "its run ended before the gate"))
    assert refused.why == "The quality check refused it: its run ended before the gate."
    accepted = version(VersionStatus.CURRENT, {}, "its own corrections 0.0 -> 3.0")
    assert explain_version(accepted).why.startswith("The quality check accepted it: its own")
    assert "stored" in explain_version(version(VersionStatus.REJECTED)).why
    waiting = explain_version(version(VersionStatus.CANDIDATE))
    assert "not looked at it yet" in waiting.why
    damaged = explain_version(version(VersionStatus.QUARANTINED, {}, "x has sha256 1"))
    assert damaged.why == "Its files were damaged: x has sha256 1."


def test_nobody_is_asked_to_begin_a_training_that_runs():
    said = explain_running(explain_state(7, None, None, None), is_first=True)
    assert said.seen == "Annotators see predictions of the shipped model."
    assert said.why == "The first training is running now."
    assert "train-now" not in said.advice
    later = explain_state(7, run(RunState.REJECTED), VERDICTS[VerdictKind.WORSE], None)
    assert explain_running(later, is_first=False).why == later.why


def test_a_training_that_waits_for_its_trainer_is_not_asked_for_again():
    said = explain_waiting(explain_state(7, None, None, None))
    assert said.why == "Nothing was trained in this project yet."
    assert "was asked for" in said.advice
    assert "train-now" not in said.advice
