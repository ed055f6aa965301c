"""When to train: corrections, wishes and earlier runs in, a cause or nothing out.

Pure: values in, values out, the time included.

| what is there                                        | cause   |
|------------------------------------------------------|---------|
| `calico train-now`, later than the last finished run | request |
| the training button (also every N annotations of     | button  |
| Label Studio's own counter), later than that run     |         |
| N corrections nobody has learned from                | count   |
| one such correction, older than the age              | age     |
| a run that ended by a crash, a stop or a failure     | retry   |
| corrections learned with weights that are gone       | weights |
| nothing new, and the last version was still rising   | refine  |

A wish is answered at once. The others wait after a rejection or a failure, twice as long each time.
A first version comes within a minute; then the trainer goes on learning what is there, as long as
that makes it better, until anything new arrives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


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
    """How a run ended, or that it has not."""

    RUNNING = "running"
    PUBLISHED = "published"
    REJECTED = "rejected"
    FAILED = "failed"
    STOPPED = "stopped"
    ABANDONED = "abandoned"


_FINISHED = (RunState.PUBLISHED, RunState.REJECTED, RunState.FAILED)
_SETBACKS = (RunState.REJECTED, RunState.FAILED, RunState.ABANDONED)


@dataclass(frozen=True)
class SchedulePolicy:
    """When a project is trained.

    Attributes:
        every: corrections nobody has learned from that start a run.
        age_s: a single one that has waited so long starts a run.
        pause_s: after one rejection or failure; doubled by each further one in a row.
        most_pause_s: never longer than this.
        attempts: crashes in a row after which the run waits for new corrections or a wish.
        refinements: better versions that may follow one by themselves.
    """

    every: int = 5
    age_s: float = 900.0
    pause_s: float = 60.0
    most_pause_s: float = 3600.0
    attempts: int = 3
    refinements: int = 3


@dataclass(frozen=True)
class PastRun:
    """One run as the schedule sees it; times are microseconds since 1970 UTC.

    Attributes:
        state: how it ended.
        began_us: when it began.
        ended_us: when it ended, None if it has not.
        upto_seq: newest place in the journal that it had seen.
        cause: why it was started.
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
        seq: its place in the journal.
        at_us: when it was made.
    """

    seq: int
    at_us: int


@dataclass(frozen=True)
class Situation:
    """One project at one moment.

    Attributes:
        now_us: the moment.
        waiting: corrections the current version has not learned from.
        requested_us: the newest `calico train-now`, or None.
        button_us: the newest press of the training button, or None.
        runs: earlier runs, newest first.
        is_outdated: the current version was made for other weights, and serves nobody.
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
    # A wish during which training crashes again and again is not repeated for ever.
    has_hope = _crashes(runs) < policy.attempts
    for wished_us, cause in (
        (situation.requested_us, Cause.REQUEST),
        (situation.button_us, Cause.BUTTON),
    ):
        if wished_us is None or wished_us <= answered_us:
            continue
        if has_hope or wished_us > runs[0].began_us:
            return cause
    if situation.now_us < pause_until_us(policy, runs):
        return None
    return _by_itself(policy, situation, has_hope=has_hope)


def still_rises(policy: SchedulePolicy, runs: Sequence[PastRun]) -> bool:
    """Whether a better version may follow the last one by itself: it has not been tried in vain."""
    tried = 0
    for run in runs:
        if run.state is RunState.STOPPED or (run.cause is Cause.REFINE and run.ended_us is None):
            continue
        if run.state is not RunState.PUBLISHED or tried >= policy.refinements:
            return False
        if run.cause is not Cause.REFINE:
            return True
        tried += 1
    return False


def pause_until_us(policy: SchedulePolicy, runs: Sequence[PastRun]) -> int:
    """Until when nothing but a wish starts a run; 0 without a setback."""
    setbacks = 0
    for run in runs:
        if run.state is RunState.STOPPED or _is_no_setback(run):
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
        (run.ended_us for run in runs if run.state in _SETBACKS and not _is_no_setback(run)), None
    )
    return (ended_us or runs[0].began_us) + round(pause_s * 1e6)


def _by_itself(policy: SchedulePolicy, situation: Situation, *, has_hope: bool) -> Cause | None:
    # What was rejected would be rejected again: count what has come since the last decision.
    decided = (RunState.PUBLISHED, RunState.REJECTED)
    made = [run for run in situation.runs if run.cause is not Cause.REFINE]
    decision = next((run for run in made if run.state in decided), None)
    if situation.is_outdated and has_hope and not _was_refused_anew(decision):
        return Cause.WEIGHTS
    seen = -1 if decision is None else decision.upto_seq
    fresh = [one for one in situation.waiting if one.seq > seen]
    last = made[0] if made else None
    is_unfinished = last is not None and last.state not in decided
    if is_unfinished and last is not None:
        if has_hope and fresh:
            return Cause.RETRY
        fresh = [one for one in fresh if one.seq > last.upto_seq]
    if len(fresh) >= policy.every:
        return Cause.COUNT
    oldest_us = min((one.at_us for one in fresh), default=situation.now_us)
    return Cause.AGE if fresh and situation.now_us - oldest_us >= policy.age_s * 1e6 else None


def _is_no_setback(run: PastRun) -> bool:
    """A version that could not be made better says nothing about new corrections."""
    return run.cause is Cause.REFINE


def _was_refused_anew(decision: PastRun | None) -> bool:
    """Whether learning with the present weights has been tried already, in vain."""
    if decision is None or decision.cause is not Cause.WEIGHTS:
        return False
    return decision.state is RunState.REJECTED


def _crashes(runs: Sequence[PastRun]) -> int:
    """Runs in a row, newest first, that crashed or failed."""
    count = 0
    for run in runs:
        if run.state is RunState.STOPPED or _is_no_setback(run):
            continue
        if run.state not in (RunState.ABANDONED, RunState.FAILED):
            break
        count += 1
    return count
