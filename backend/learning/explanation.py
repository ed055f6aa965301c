"""What a decision about a version means, in whole sentences for people who label.

Pure: versions and runs in, words out. The pages at /ui, `calico status` and `calico versions` say
the same, because all of them ask here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from backend.learning.gate import VerdictKind
from backend.learning.schedule import RunState
from backend.learning.training_runs import TrainingRun
from backend.storage.versions import AdapterVersion, VersionStatus

SHIPPED = "the shipped model"
_KEPT = "the corrections that are kept for testing"
_OWN = "your own corrections"
_NEW = "your new corrections"
_EARLIER = "your earlier corrections"
_SEEN = "Annotators see predictions"
_GO_ON = "Correct the next groups. It learns again from them by itself."


@dataclass(frozen=True)
class Reason:
    """Why a version is served or not.

    Attributes:
        why: one or two sentences with the figures.
        advice: what to do next, one or two sentences.
    """

    why: str
    advice: str


@dataclass(frozen=True)
class Explanation:
    """State of a project after its last decision.

    Attributes:
        seen: whose predictions annotators see now, and whether that has changed.
        why: as in `Reason`.
        advice: as in `Reason`.
    """

    seen: str
    why: str
    advice: str


def explain_version(version: AdapterVersion) -> Reason:
    """Says why a version was published, refused or taken back, and what to do next."""
    if version.status is VersionStatus.CANDIDATE:
        return Reason("The quality check has not looked at it yet.", "Wait until it has.")
    if version.status is VersionStatus.QUARANTINED:
        return Reason(
            f"Its files were damaged: {_ended(version.reason)}",
            f"Train again: {_train_now(version.project_id)}",
        )
    if version.status is VersionStatus.RETIRED and _was_taken_back(version):
        return Reason(_taken_back(version.reason or ""), _GO_ON)
    try:
        kind = VerdictKind(version.gate.get("verdict", ""))
    except ValueError:  # judged by an earlier release, or refused before the quality check
        return _as_stored(version)
    return _explain_verdict(kind, version)


def explain_state(
    project_id: int,
    run: TrainingRun | None,
    candidate: AdapterVersion | None,
    served: AdapterVersion | None,
) -> Explanation:
    """Says what annotators see after the last finished training, why, and what to do next.

    Args:
        project_id: Label Studio's project id.
        run: the last finished training, or None.
        candidate: the version that it made, or None.
        served: the version that predicts now, None for the shipped model.
    """
    name = SHIPPED if served is None else f"version {served.id}"
    if run is None:
        return Explanation(
            f"{_SEEN} of {name}.",
            "Nothing was trained in this project yet.",
            "Correct groups and submit them. A training begins by itself when there are enough. "
            f"To begin it at once, {_train_now(project_id)}",
        )
    if candidate is not None and run.state in (RunState.PUBLISHED, RunState.REJECTED):
        reason = explain_version(candidate)
    else:
        reason = _explain_run(run)
    served_id = None if served is None else served.id
    if run.state is not RunState.PUBLISHED:
        # A version may have been taken back by hand after the training.
        is_same = candidate is None or candidate.parent_id == served_id
        seen = "Annotators see what they saw before: predictions" if is_same else _SEEN
        seen = f"{seen} of {name}."
    elif candidate is not None and candidate.id == served_id:
        seen = f"{_SEEN} of the new {name}."
    else:
        seen = f"{_SEEN} of {name} again."
    return Explanation(seen, reason.why, reason.advice)


def explain_running(state: Explanation, *, is_first: bool) -> Explanation:
    """Says what to do while a training runs that somebody waits for.

    Args:
        state: the explanation before that training.
        is_first: no training of the project has ended yet.
    """
    advice = "Wait until it ends, or go on correcting groups."
    if is_first:
        return replace(state, why="The first training is running now.", advice=advice)
    return replace(state, advice=f"A training is running now. {advice}")


def explain_waiting(state: Explanation) -> Explanation:
    """Says what to do while a training that somebody asked for has not begun yet.

    Args:
        state: the explanation before that training.
    """
    return replace(
        state,
        advice="A training was asked for. It begins within seconds if a trainer runs; "
        "calico serve runs one.",
    )


def _explain_verdict(kind: VerdictKind, version: AdapterVersion) -> Reason:
    gate, again = version.gate, _train_now(version.project_id)
    match kind:
        case VerdictKind.BETTER:
            return Reason(_published(gate), _GO_ON)
        case VerdictKind.WORSE:
            return Reason(
                f"After training it {_change(gate, 'held_out', _KEPT)}",
                "Correct a few more groups. The next training learns from all of them.",
            )
        case VerdictKind.USELESS:
            return Reason(
                f"After training it {_change(gate, 'learned', _NEW)}",
                "Correct a few more groups that show the same things. The next training learns "
                "from all of them.",
            )
        case VerdictKind.NO_BETTER:
            tested = not gate.get("provisional", True)
            block, subject = ("held_out", _KEPT) if tested else ("earlier", _OWN)
            return Reason(
                "It went on learning from the same corrections, and that brought too little: it "
                f"{_change(gate, block, subject)}",
                _GO_ON,
            )
        case VerdictKind.FORGETS:
            return Reason(
                f"After training it found fewer regions of earlier labels: {_older(gate)}",
                "Look whether somebody renamed labels in the project, and undo that or correct "
                f"the old annotations. Then train again: {again}",
            )
        case VerdictKind.CONTRADICTS:
            return Reason(
                f"The new corrections contradict the others: {_agreement(gate)}",
                "Look through the newest annotations for wrong names and misplaced masks, and "
                f"correct them. Then train again: {again}",
            )
        case VerdictKind.NOT_FINITE:
            return Reason(
                "Its quality could not be computed: a figure is not a number.",
                f"Train again: {again} If it happens again, run calico doctor.",
            )
        case VerdictKind.UNMEASURED:
            return Reason(
                "Its quality could not be measured: no image of the corrected groups could be "
                "read.",
                f"Run calico doctor and repair what it names. Then train again: {again}",
            )


def _explain_run(run: TrainingRun) -> Reason:
    """Says why a run ended without a version that was judged."""
    again = _train_now(run.project_id)
    match run.state:
        case RunState.FAILED:
            return Reason(
                f"The training failed: {_ended(run.error)}",
                "It is tried again by itself. If it fails again, run calico doctor.",
            )
        case RunState.ABANDONED:
            return Reason(
                "The trainer ended in the middle of the training.",
                "Another trainer begins it again. If it ends again, run calico doctor.",
            )
        case RunState.STOPPED if run.error in (None, "stopped"):
            return Reason(
                "Somebody stopped the training before its end.", "It begins again by itself."
            )
        case RunState.REJECTED:
            return Reason(
                f"There was {_ended(run.error)}",
                f"Give the regions names and submit them. Then train again: {again}",
            )
    return Reason(f"The training ended early: {_ended(run.error)}", _GO_ON)


def _as_stored(version: AdapterVersion) -> Reason:
    """Says what is stored about a version whose verdict has no kind."""
    why = _ended(version.reason or "no reason was stored")
    if version.status is VersionStatus.REJECTED:
        advice = f"Correct a few more groups, or train again: {_train_now(version.project_id)}"
        return Reason(f"The quality check refused it: {why}", advice)
    return Reason(f"The quality check accepted it: {why}", _GO_ON)


def _was_taken_back(version: AdapterVersion) -> bool:
    """Whether a retired version was replaced by an earlier one, and not by a later one."""
    by_rules = ("corrections kept for testing ", "its own corrections ")
    return version.reason is not None and not version.reason.startswith(by_rules)


def _taken_back(reason: str) -> str:
    """Why an earlier version replaced a version."""
    by_itself, by_somebody = "rolled back by itself: ", "rolled back "
    if reason.startswith(by_itself):
        return f"It was taken back because {_ended(reason.removeprefix(by_itself))}"
    if reason.startswith(by_somebody):
        return f"Somebody took it back {_ended(reason.removeprefix(by_somebody))}"
    return f"Somebody took it back: {_ended(reason)}"


def _published(gate: Mapping[str, Any]) -> str:
    """Why a version was accepted."""
    if not gate.get("provisional", True):
        block, subject, note = "held_out", _KEPT, ""
    else:
        block, subject = ("learned", _OWN) if "learned" in gate else ("earlier", _EARLIER)
        note = (
            " Too few corrections are kept for testing yet, so it was measured on those it learned."
        )
    before, after = _pair(gate, block, "Recall")
    # A fall within the limits of the gate is accepted.
    small = " The difference is small enough to accept it." if after < before else ""
    return f"After training it {_change(gate, block, subject)}{small}{note}"


def _change(gate: Mapping[str, Any], block: str, subject: str) -> str:
    """Compares what was found of the corrections in a block of the gate, before and after."""
    if block not in gate:
        return f"could not be measured on {subject}."
    before, after = _pair(gate, block, "Recall")
    overlap_before, overlap_after = _pair(gate, block, "mIoU")
    figures = f"{before:.1f} -> {after:.1f} of 100 regions"
    overlap = f"overlap {overlap_before:.1f} -> {overlap_after:.1f} of 100"
    fit = "better" if overlap_after > overlap_before else "worse"
    is_moved = overlap_after != overlap_before
    if after == before:
        found = f"found as many of {subject} as before, {after:.1f} of 100 regions"
        if after == 0:
            found = f"found none of {subject}, as before"
        return f"{found}; its outlines fit {fit}: {overlap}." if is_moved else f"{found}."
    word = "more" if after > before else "fewer"
    found = f"found {word} of {subject}: {figures}"
    is_opposite = is_moved and (after > before) != (overlap_after > overlap_before)
    return f"{found}, but its outlines fit {fit}: {overlap}." if is_opposite else f"{found}."


def _pair(gate: Mapping[str, Any], block: str, metric: str) -> tuple[float, float]:
    """A metric before and after, in percent, as it is printed."""
    before, after = gate.get(block, {}).get(metric, (0.0, 0.0))
    return round(before, 1), round(after, 1)


def _older(gate: Mapping[str, Any]) -> str:
    known = gate.get("older_labels")
    if known is None:
        return "the figures were not stored."
    before, after = known["found"]
    return f"{before} -> {after} of {known['regions']}."


def _agreement(gate: Mapping[str, Any]) -> str:
    known = gate.get("agreement")
    if known is None:
        return "the figures were not stored."
    return f"only {known['new']:.0f} of 100 of their regions can be predicted from the others."


def _train_now(project_id: int) -> str:
    return (
        "press Start Training under Settings, Model in Label Studio, or run "
        f"calico train-now --project {project_id}."
    )


def _ended(text: str | None) -> str:
    """A stored text as the end of a sentence."""
    text = (text or "no reason was stored").strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
