"""What the trainer does without being asked: when to train, on which tasks, when to roll back.

Pure: values in, values out, the time included.

| state of a project                                   | cause   |
|------------------------------------------------------|---------|
| `calico train-now`, later than the last finished run | request |
| the training button (also every N annotations of     | button  |
| Label Studio's own counter), later than that run     |         |
| N corrections that no version has learned            | count   |
| one such correction, older than the age              | age     |
| the last run crashed, was stopped or failed          | retry   |
| the current version was made for other weights       | weights |
| no new correction, and the last version improved     | refine  |

A request or a button press starts a run at once. After a rejection or a failure the other causes
wait, twice as long each time. A first version comes within a minute; then the trainer goes on with
the same corrections as long as each version is better than the one before, until a new correction
arrives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from backend.learning.correction import RegionTally
from backend.learning.rows import Standing, TaskRow

HELD_OUT_SHARE = 0.2
LEARNED_FIRST = 24
"""The first corrected tasks of a project are all learned; a share of the later ones is held out."""


class Cause(StrEnum):
    """Why a run was started."""

    REQUEST = "request"
    BUTTON = "button"
    COUNT = "count"
    AGE = "age"
    RETRY = "retry"
    WEIGHTS = "weights"
    REFINE = "refine"


class RunState(StrEnum):
    """State of a run: running, or how it ended."""

    RUNNING = "running"
    PUBLISHED = "published"
    REJECTED = "rejected"
    FAILED = "failed"
    STOPPED = "stopped"
    ABANDONED = "abandoned"


_FINISHED = (RunState.PUBLISHED, RunState.REJECTED, RunState.FAILED)
_DECIDED = (RunState.PUBLISHED, RunState.REJECTED)
_SETBACKS = (RunState.REJECTED, RunState.FAILED, RunState.ABANDONED)
_CRASHES = (RunState.ABANDONED, RunState.FAILED)


@dataclass(frozen=True)
class SchedulePolicy:
    """When a project is trained.

    Attributes:
        every: number of unlearned corrections that starts a run.
        age_s: age in seconds at which a single unlearned correction starts a run.
        pause_s: pause in seconds after one rejection or failure; doubled by each further one in a
            row.
        most_pause_s: longest pause in seconds.
        attempts: crashes in a row after which the run waits for new corrections or a request.
        refinements: refining runs that may follow one version.
    """

    every: int = 5
    age_s: float = 900.0
    pause_s: float = 60.0
    most_pause_s: float = 3600.0
    attempts: int = 3
    refinements: int = 3


@dataclass(frozen=True)
class PastRun:
    """One run as the schedule uses it; times are microseconds since 1970 UTC.

    Attributes:
        state: how the run ended.
        began_us: when the run began.
        ended_us: when the run ended, None if it has not.
        upto_seq: newest place in the journal that the run had read.
        cause: why the run was started.
    """

    state: RunState
    began_us: int
    ended_us: int | None
    upto_seq: int
    cause: Cause = Cause.COUNT


@dataclass(frozen=True)
class NewCorrection:
    """One correction that training may use and has not used.

    Attributes:
        seq: place in the journal.
        at_us: when the annotator made it, in microseconds since 1970 UTC.
    """

    seq: int
    at_us: int


@dataclass(frozen=True)
class Situation:
    """One project at one moment; times are microseconds since 1970 UTC.

    Attributes:
        now_us: the moment.
        waiting: corrections that the current version has not learned.
        requested_us: the newest `calico train-now`, or None.
        button_us: the newest press of the training button, or None.
        runs: earlier runs, newest first.
        is_outdated: the current version was made for other weights and is not served.
    """

    now_us: int
    waiting: Sequence[NewCorrection] = ()
    requested_us: int | None = None
    button_us: int | None = None
    runs: Sequence[PastRun] = ()
    is_outdated: bool = False


def due(policy: SchedulePolicy, situation: Situation) -> Cause | None:
    """Returns why to train now, or None."""
    runs = situation.runs
    if runs and runs[0].state is RunState.RUNNING:
        return None
    if not situation.waiting:
        return Cause.REFINE if still_rises(policy, runs) else None
    answered_us = next(
        (r.began_us for r in runs if r.state in _FINISHED and r.cause is not Cause.REFINE), -1
    )
    # A request is not repeated for ever while training crashes again and again.
    may_repeat = _crashes(runs) < policy.attempts
    for requested_us, cause in (
        (situation.requested_us, Cause.REQUEST),
        (situation.button_us, Cause.BUTTON),
    ):
        if requested_us is None or requested_us <= answered_us:
            continue
        if may_repeat or requested_us > runs[0].began_us:
            return cause
    if situation.now_us < pause_until_us(policy, runs):
        return None
    return _unrequested_cause(policy, situation, may_repeat=may_repeat)


def still_rises(policy: SchedulePolicy, runs: Sequence[PastRun]) -> bool:
    """Whether a refining run may follow: the last version was published, and refining still helps.

    Args:
        policy: limits the number of refining runs.
        runs: earlier runs, newest first.
    """
    refined = 0
    for run in runs:
        if run.state is RunState.STOPPED or (run.cause is Cause.REFINE and run.ended_us is None):
            continue
        if run.state is not RunState.PUBLISHED or refined >= policy.refinements:
            return False
        if run.cause is not Cause.REFINE:
            return True
        refined += 1
    return False


def pause_until_us(policy: SchedulePolicy, runs: Sequence[PastRun]) -> int:
    """Until when only a request starts a run, in microseconds since 1970; 0 without a setback."""
    setbacks = 0
    for run in runs:
        if run.state is RunState.STOPPED or _is_refining(run):
            continue
        if run.state not in _SETBACKS:
            break
        setbacks += 1
    if not setbacks:
        return 0
    # A crash says nothing about the corrections: its first repetition need not wait.
    if setbacks == 1 and runs[0].state is RunState.ABANDONED:
        return 0
    pause_s = min(policy.most_pause_s, policy.pause_s * 2.0 ** min(setbacks - 1, 30))
    ended_us = next(
        (run.ended_us for run in runs if run.state in _SETBACKS and not _is_refining(run)), None
    )
    return (ended_us or runs[0].began_us) + round(pause_s * 1e6)


def _unrequested_cause(
    policy: SchedulePolicy, situation: Situation, *, may_repeat: bool
) -> Cause | None:
    # A rejected batch would be rejected again: count the corrections since the last decision.
    runs = [run for run in situation.runs if run.cause is not Cause.REFINE]
    decision = next((run for run in runs if run.state in _DECIDED), None)
    if situation.is_outdated and may_repeat and not _was_rejected_for_weights(decision):
        return Cause.WEIGHTS
    decided_seq = -1 if decision is None else decision.upto_seq
    fresh = [correction for correction in situation.waiting if correction.seq > decided_seq]
    last = runs[0] if runs else None
    is_unfinished = last is not None and last.state not in _DECIDED
    if is_unfinished and last is not None:
        if may_repeat and fresh:
            return Cause.RETRY
        fresh = [correction for correction in fresh if correction.seq > last.upto_seq]
    if len(fresh) >= policy.every:
        return Cause.COUNT
    oldest_us = min((correction.at_us for correction in fresh), default=situation.now_us)
    return Cause.AGE if fresh and situation.now_us - oldest_us >= policy.age_s * 1e6 else None


def _is_refining(run: PastRun) -> bool:
    """Whether a run only refined: its failure says nothing about new corrections."""
    return run.cause is Cause.REFINE


def _was_rejected_for_weights(decision: PastRun | None) -> bool:
    """Whether learning again with the present weights was tried and rejected."""
    if decision is None or decision.cause is not Cause.WEIGHTS:
        return False
    return decision.state is RunState.REJECTED


def _crashes(runs: Sequence[PastRun]) -> int:
    """Number of runs in a row, from the newest, that crashed or failed."""
    count = 0
    for run in runs:
        if run.state is RunState.STOPPED or _is_refining(run):
            continue
        if run.state not in _CRASHES:
            break
        count += 1
    return count


def held_out_tasks(project_id: int, rows: Iterable[TaskRow]) -> frozenset[int]:
    """Returns the ids of the tasks that are only measured on and never trained on.

    The first corrected tasks of a project are all learned: there, a correction is worth more as a
    training target than as a test, and the gate asks of each correction whether the others predict
    it. Annotation ids grow, so a task keeps its side as long as the annotations made before it
    stay.

    Args:
        project_id: Label Studio's id.
        rows: all tasks of the project.
    """
    corrected = (row for row in rows if row.standing is Standing.CORRECTED)
    return held_out_ids(project_id, ((row.annotation_id or 0, row.task_id) for row in corrected))


def held_out_ids(project_id: int, corrected: Iterable[tuple[int, int]]) -> frozenset[int]:
    """Returns what `held_out_tasks` does, from (annotation id, task id) of all corrected tasks."""
    later = sorted(corrected)[LEARNED_FIRST:]
    return frozenset(task_id for _, task_id in later if is_held_out(project_id, task_id))


def is_held_out(project_id: int, task_id: int, *, share: float = HELD_OUT_SHARE) -> bool:
    """Whether a later task is held out; depends on the two ids alone."""
    digest = hashlib.sha256(f"held out/{project_id}/{task_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


@dataclass(frozen=True)
class AcceptancePolicy:
    """When a published version is rolled back.

    Attributes:
        window: number of newest tasks of each version that count.
        least_tasks: tasks that both versions need before a decision.
        margin: fall of the accepted share in [0, 1] that is still allowed.
    """

    window: int = 50
    least_tasks: int = 10
    margin: float = 0.15


@dataclass(frozen=True)
class LiveAcceptance:
    """How annotators judged the predictions of one version.

    Attributes:
        tasks: number of tasks that started from a prediction of it with at least one region.
        tally: outcomes of the regions of these tasks.
    """

    tasks: int
    tally: RegionTally


def live_acceptance(
    rows: Iterable[TaskRow], versions: frozenset[str], *, window: int
) -> LiveAcceptance:
    """Sums up the newest `window` tasks that started from one of `versions`."""
    started = [
        row
        for row in rows
        if row.standing is Standing.CORRECTED and row.version in versions and row.tally.predicted
    ]
    newest = sorted(started, key=lambda row: row.seq)[-window:]
    return LiveAcceptance(len(newest), sum((row.tally for row in newest), RegionTally()))


def reason_to_roll_back(
    policy: AcceptancePolicy, current: LiveAcceptance, parent: LiveAcceptance
) -> str | None:
    """Returns why the current version is rolled back: annotators accept less of it than of parent.

    None if it stays.
    """
    if min(current.tasks, parent.tasks) < policy.least_tasks:
        return None
    now, before = current.tally.acceptance, parent.tally.acceptance
    if now is None or before is None or before - now <= policy.margin:
        return None
    return (
        f"annotators accept {now:.0%} of its regions over {current.tasks} tasks, "
        f"{before:.0%} of its parent's over {parent.tasks}"
    )
