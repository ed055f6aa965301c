"""What Label Studio has and the journal has not: finds it, and journals it like an event.

Label Studio sends each event once and waits one second; what it could not deliver is only in its
database. Nothing is derived here, and nothing is changed in Label Studio.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from backend.clock import from_us, now_us, to_us
from backend.errors import BusyError, LabelStudioAuthError, LabelStudioError, RequestError
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.event import annotation_keys, deletion_event, missed_events
from backend.label_studio.history import TaskSummary, fetch_annotated, find_tasks
from backend.learning.repository import CorrectionRepository
from backend.learning.rows import Doubt, LiveHead
from backend.storage.journal import AHEAD_US
from backend.types import Event

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_OVERLAP = timedelta(minutes=5)
# Label Studio tells us before it commits: what is younger may not be in its answers yet.
_GRACE_US = 60_000_000
_TASKS_PER_CALL = 10
PAUSES_S = (1.0, 5.0, 30.0)
CONFIRM_AFTER_S = 600.0
"""What Label Studio no longer shows must still be missing so long after it was first missed."""
MOST_SHARE = 0.1
"""Of a project's annotations, at most this share (but one, at least) is deleted at once."""
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)

_Heads = Mapping[int, Mapping[int, LiveHead]]


@dataclass(frozen=True)
class Repair:
    """What one comparison found.

    Attributes:
        recovered: annotation states that no event had told.
        deleted: deletions that no event had told.
        unreadable: tasks in a form that cannot be journalled.
        held_back: deletions and returns to older states that wait: for another look, or, where
            they are too many at once, for a person's word.
    """

    recovered: int = 0
    deleted: int = 0
    unreadable: int = 0
    held_back: int = 0

    def __add__(self, other: Repair) -> Repair:
        return Repair(
            self.recovered + other.recovered,
            self.deleted + other.deleted,
            self.unreadable + other.unreadable,
            self.held_back + other.held_back,
        )


@dataclass(frozen=True)
class _Question:
    """A head that one look contradicts: its annotation is missing, or in an older state."""

    head: LiveHead
    task_id: int
    event: Event  # what would be journalled
    seen: str = ""


@dataclass
class _Look:
    """What one look at a project has shown so far.

    Attributes:
        repair: what was journalled and what cannot be read.
        answered: annotations whose tasks were looked at.
        questions: heads that were contradicted.
        unsettled: tasks with news that is too young to be judged.
    """

    repair: Repair = field(default_factory=Repair)
    answered: set[int] = field(default_factory=set)
    questions: list[_Question] = field(default_factory=list)
    unsettled: set[int] = field(default_factory=set)


def is_too_much(count: int, live: int) -> bool:
    """Whether so many deletions at once need a person's word.

    A strange answer (an empty list, another server, an older backup) looks like many deletions;
    what would leave nothing of a project is never believed.
    """
    return count >= max(live, 1) or count > max(1, int(live * MOST_SHARE))


class Reconciler:
    """Compares projects with Label Studio.

    Args:
        repository: where the journal is.
        client: Label Studio.
        pauses_s: waiting times between tries of a call that failed.
        sleep: waits that many seconds; raises to give up.
        confirm_after_s: what is missing must still be missing so long after it was first missed.
    """

    def __init__(
        self,
        repository: CorrectionRepository,
        client: LabelStudioClient,
        *,
        pauses_s: Sequence[float] = PAUSES_S,
        sleep: Callable[[float], object] = time.sleep,
        confirm_after_s: float = CONFIRM_AFTER_S,
    ) -> None:
        self._repository = repository
        self._client = client
        self._pauses_s = pauses_s
        self._sleep = sleep
        self._confirm_after_us = round(confirm_after_s * 1e6)
        self._compared: dict[int, dict[int, datetime]] = {}

    def reconcile(self, project_id: int, *, is_full: bool, is_approved: bool = False) -> Repair:
        """Journals every state and deletion of a project's annotations that no event told.

        Nothing is deleted because of one answer: what is missing must be missing again after
        `confirm_after_s`, and be no more than a tenth of the project at once. Whatever Label Studio
        shows again counts again. Stopping half way is harmless: what was journalled stays, and the
        rest is found next time.

        Args:
            project_id: the project.
            is_full: look at every task, which also finds deleted tasks; else only at those that
                changed since the last time.
            is_approved: a person says that what Label Studio shows now is right: deletions are
                journalled at once, however many.

        Raises:
            LabelStudioError: Label Studio cannot be asked, also after some patience.
            BusyError: the journal is too slow, also after some patience.
            StoreError: the database cannot be read or written.
        """
        # Read first: a head that is here now and not in Label Studio's later answers is gone.
        heads = self._repository.heads(project_id)
        tasks_of = _by_task(heads)
        doubts = {one.annotation_id: one for one in self._repository.doubts(project_id)}
        cursor = self._repository.cursor(project_id)
        since = _NEVER
        if cursor is not None:
            since = min(cursor.updated_at, from_us(now_us())) - _OVERLAP
        is_full = is_full or is_approved or cursor is None
        project = self._patiently(lambda: self._client.project(project_id))
        tasks = self._patiently(
            lambda: list(find_tasks(self._client, project_id, since=None if is_full else since))
        )
        look = _Look()
        wanted = self._suspicious(project_id, tasks, tasks_of, since=since)
        if is_full:
            wanted += self._vanished(project_id, tasks, tasks_of, look)
            # Nothing else tells that what was missed is there again.
            doubted = {one.task_id for one in doubts.values()} & {task.id for task in tasks}
            wanted += sorted(doubted - set(wanted))
        else:
            wanted += self._due(doubts.values(), wanted, _live(heads))
        by_id = {head.annotation_id: head for head in heads}
        for start in range(0, len(wanted), _TASKS_PER_CALL):
            few = wanted[start : start + _TASKS_PER_CALL]
            self._compare(project_id, project.label_config, few, tasks_of, by_id, look)
        self._decide(project_id, by_id, doubts, look, is_approved=is_approved)
        compared = {} if is_full else dict(self._compared.get(project_id, {}))
        compared |= {task.id: task.updated_at for task in tasks}
        self._compared[project_id] = {
            task_id: moment for task_id, moment in compared.items() if task_id not in look.unsettled
        }
        newest = max((task.updated_at for task in tasks), default=since)
        self._repository.move_cursor(project_id, min(max(newest, since), from_us(now_us())))
        _tell(project_id, look.repair)
        return look.repair

    def _suspicious(
        self,
        project_id: int,
        tasks: Sequence[TaskSummary],
        heads: _Heads,
        *,
        since: datetime,
    ) -> list[int]:
        """Tasks whose annotations have to be looked at."""
        compared = self._compared.get(project_id, {})
        wanted = []
        for task in tasks:
            known = heads.get(task.id, {})
            seen = compared.get(task.id)
            # Another time is a change, also an earlier one: a clock may be set back.
            has_changed = task.updated_at > since if seen is None else seen != task.updated_at
            if task.annotation_count != _live(known.values()) or (has_changed and known):
                wanted.append(task.id)
        return wanted

    def _vanished(
        self, project_id: int, tasks: Sequence[TaskSummary], heads: _Heads, look: _Look
    ) -> list[int]:
        """Tasks of the journal that Label Studio did not name; they are asked for one by one."""
        named = {task.id for task in tasks}
        live = {task_id for task_id, known in heads.items() if _live(known.values())}
        if live and not live & named:
            # Another Label Studio, or a copy of its database: thousands would be asked in vain.
            for task_id in sorted(live):
                self._miss(project_id, task_id, heads[task_id].values(), look)
            return []
        return sorted(live - named)

    def _due(self, doubts: Iterable[Doubt], wanted: Sequence[int], live: int) -> list[int]:
        """Tasks with doubts that may be confirmed by now, if they could be believed."""
        pending = list(doubts)
        if is_too_much(len(pending), live):
            return []  # a look at every task comes to them
        before_us = now_us() - self._confirm_after_us
        due = {one.task_id for one in pending if one.first_seen_us <= before_us}
        return sorted(due - set(wanted))

    def _compare(
        self,
        project_id: int,
        label_config: str,
        task_ids: Sequence[int],
        heads: _Heads,
        by_id: Mapping[int, LiveHead],
        look: _Look,
    ) -> None:
        found = self._patiently(lambda: fetch_annotated(self._client, project_id, task_ids))
        for task_id in task_ids:
            known = heads.get(task_id, {})
            events: tuple[Event, ...] = ()
            if task_id in found:
                try:
                    events = missed_events(
                        found[task_id], project_id=project_id, label_config=label_config
                    )
                except RequestError as error:
                    look.repair += Repair(unreadable=1)
                    _log.warning("task %s: %s", task_id, error, extra={"event": "task_unreadable"})
                    continue
            for event in events:
                self._see(event, task_id, by_id.get(event.annotation_id or 0), look)
            there = {event.annotation_id for event in events}
            missing = [head for head in known.values() if head.annotation_id not in there]
            self._miss(project_id, task_id, missing, look)

    def _see(self, event: Event, task_id: int, head: LiveHead | None, look: _Look) -> None:
        """Compares one annotation as Label Studio has it with its head."""
        if head is None:
            look.repair += Repair(recovered=self._observe(event, None))
            return
        look.answered.add(head.annotation_id)
        if not head.is_deleted and self._is_known(event, head):
            return
        stamp_us = 0 if event.updated_at is None else to_us(event.updated_at)
        if not head.is_deleted and stamp_us > head.version_us:
            look.repair += Repair(recovered=self._observe(event, head))
        elif not _is_settled(head):
            look.unsettled.add(task_id)
        elif head.is_deleted or head.version_us > now_us() + AHEAD_US:
            # It is there after all; or the journal's time tells nothing about which is older.
            look.repair += Repair(recovered=self._observe(event, head))
        else:
            look.questions.append(_Question(head, task_id, event, event.key))

    def _miss(
        self, project_id: int, task_id: int, missing: Iterable[LiveHead], look: _Look
    ) -> None:
        """Notes annotations that should be in Label Studio's answer and are not."""
        for head in missing:
            look.answered.add(head.annotation_id)
            if head.is_deleted:
                continue
            if not _is_settled(head):
                look.unsettled.add(task_id)
                continue
            gone = deletion_event(project_id, head.annotation_id)
            look.questions.append(_Question(head, task_id, gone))

    def _decide(
        self,
        project_id: int,
        by_id: Mapping[int, LiveHead],
        doubts: Mapping[int, Doubt],
        look: _Look,
        *,
        is_approved: bool,
    ) -> None:
        """Journals what was confirmed and keeps the other doubts."""
        now = now_us()
        pending = {
            number: one
            for number, one in doubts.items()
            if number not in look.answered and _still_holds(one, by_id.get(number))
        }
        confirmed = []
        for question in look.questions:
            number = question.head.annotation_id
            known = doubts.get(number)
            is_same = (
                known is not None
                and known.seen == question.seen
                and _still_holds(known, question.head)
            )
            first_us = known.first_seen_us if known is not None and is_same else now
            pending[number] = Doubt(
                number, question.task_id, question.head.key, question.seen, first_us
            )
            if is_approved or (is_same and now - first_us >= self._confirm_after_us):
                confirmed.append(question)
        if is_approved or not is_too_much(len(pending), _live(by_id.values())):
            for question in confirmed:
                is_gone = question.event.is_deletion
                count = self._observe(question.event, question.head)
                look.repair += Repair(deleted=count) if is_gone else Repair(recovered=count)
                del pending[question.head.annotation_id]
        look.repair += Repair(held_back=len(pending))
        keep = self._repository.replace_doubts
        self._patiently(lambda: keep(project_id, doubts.values(), pending.values()))

    def _is_known(self, event: Event, head: LiveHead) -> bool:
        """Whether the journal's state of an annotation is the one that Label Studio has."""
        stamp_us = 0 if event.updated_at is None else to_us(event.updated_at)
        if stamp_us != head.version_us:
            return False
        told = annotation_keys(event)
        if head.key in told:
            return True
        stored = self._repository.store.find_event(head.key)  # told once more, by another key
        return (
            stored is not None
            and bool(stored.event.payload)
            and told == annotation_keys(stored.event)
        )

    def _observe(self, event: Event, head: LiveHead | None) -> int:
        expected = None if head is None else head.key
        record = self._repository.store.record_observation
        return int(self._patiently(lambda: record(event, expected=expected)))

    def _patiently(self, call: Callable[[], _T]) -> _T:
        """Tries a call again after each pause, or after the one the answer asks for."""
        for pause_s in self._pauses_s:
            try:
                return call()
            except LabelStudioAuthError:
                raise
            except (LabelStudioError, BusyError) as error:
                _log.info("trying again: %s", error, extra={"event": "reconcile_retry"})
                self._sleep(max(pause_s, error.retry_after_s or 0))
        return call()


def _by_task(heads: Sequence[LiveHead]) -> _Heads:
    """Heads by task and annotation, deleted ones included."""
    tasks: dict[int, dict[int, LiveHead]] = {}
    for head in heads:
        if head.task_id is not None:
            tasks.setdefault(head.task_id, {})[head.annotation_id] = head
    return tasks


def _live(heads: Iterable[LiveHead]) -> int:
    return sum(not head.is_deleted for head in heads)


def _is_settled(head: LiveHead) -> bool:
    """Whether an annotation should be in Label Studio's answers by now."""
    return now_us() - head.received_us > _GRACE_US


def _still_holds(doubt: Doubt, head: LiveHead | None) -> bool:
    """Whether a doubt is about the state that the journal has now."""
    return head is not None and not head.is_deleted and head.key == doubt.head_key


def _tell(project_id: int, repair: Repair) -> None:
    if repair == Repair():
        return
    _log.warning(
        "project %s: %d missed changes and %d missed deletions journalled, %d unreadable, "
        "%d held back",
        project_id,
        repair.recovered,
        repair.deleted,
        repair.unreadable,
        repair.held_back,
        extra={"event": "reconciled", "project": project_id},
    )
