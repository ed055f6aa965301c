"""Reconciling: finds annotation states that the journal lacks and journals them like events.

Label Studio sends each event once and waits one second; an event that it could not deliver is only
in its database. Reconciling derives nothing and changes nothing in Label Studio.
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
from backend.learning.doubts import (
    CONFIRM_AFTER_S,
    Contradiction,
    count_live,
    is_too_much,
    weigh,
)
from backend.learning.repository import CorrectionRepository
from backend.learning.rows import Doubt, LiveHead
from backend.storage.journal import AHEAD_US
from backend.storage.store import Store
from backend.types import Event

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_OVERLAP = timedelta(minutes=5)
# Label Studio sends an event before it commits: a younger state may be missing in its answers.
_GRACE_US = 60_000_000
_TASKS_PER_CALL = 10
PAUSES_S = (1.0, 5.0, 30.0)
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)

_Heads = Mapping[int, Mapping[int, LiveHead]]


@dataclass(frozen=True)
class Repair:
    """Result of one comparison, as counts.

    Attributes:
        recovered: journalled annotation states that no event had delivered.
        deleted: journalled deletions that no event had delivered.
        unreadable: tasks in a form that cannot be journalled.
        held_back: deletions and returns to older states that are not journalled yet: they wait for
            another comparison or, if they are too many at once, for approval by a person.
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


@dataclass
class _Progress:
    """Results of the comparison under way.

    Attributes:
        repair: counts so far.
        compared: ids of annotations whose tasks were compared.
        contradictions: heads that Label Studio contradicts.
        unsettled: ids of tasks with changes that are too young to be judged.
    """

    repair: Repair = field(default_factory=Repair)
    compared: set[int] = field(default_factory=set)
    contradictions: list[Contradiction] = field(default_factory=list)
    unsettled: set[int] = field(default_factory=set)


class Reconciler:
    """Compares projects with Label Studio.

    Args:
        repository: the database with the journal.
        client: Label Studio's API.
        pauses_s: seconds to wait before each further try of a failed call.
        sleep: waits that many seconds; raises to give up.
        confirm_after_s: seconds for which an annotation must be missing before its deletion is
            journalled.
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
        """Journals every state and deletion of a project's annotations that no event delivered.

        A deletion is never journalled after one comparison: the annotation must still be missing
        after `confirm_after_s`, and at most a tenth of the project may be missing at once. An
        annotation that Label Studio shows again is valid again. Stopping at any place is harmless:
        journalled states stay, and the next comparison finds the rest.

        Args:
            project_id: Label Studio's project id.
            is_full: compare every task, which also finds deleted tasks; else only the tasks that
                changed since the last comparison.
            is_approved: a person has confirmed that Label Studio's present state is right: all
                deletions are journalled at once.

        Raises:
            LabelStudioError: a request failed, also after the retries.
            BusyError: the journal is too slow, also after the retries.
            StoreError: the database cannot be read or written.
        """
        # Read before asking: a head that is known now and missing in a later answer is deleted.
        heads = self._repository.heads(project_id)
        tasks_of = _by_task(heads)
        doubts = {doubt.annotation_id: doubt for doubt in self._repository.doubts(project_id)}
        cursor = self._repository.cursor(project_id)
        since = _NEVER
        if cursor is not None:
            since = min(cursor.updated_at, from_us(now_us())) - _OVERLAP
        is_full = is_full or is_approved or cursor is None
        project = self._with_retries(lambda: self._client.project(project_id))
        tasks = self._with_retries(
            lambda: list(find_tasks(self._client, project_id, since=None if is_full else since))
        )
        progress = _Progress()
        wanted = self._suspicious(project_id, tasks, tasks_of, since=since)
        if is_full:
            wanted += self._vanished(project_id, tasks, tasks_of, progress)
            # Only comparing shows that a missing annotation is there again.
            doubted = {doubt.task_id for doubt in doubts.values()} & {task.id for task in tasks}
            wanted += sorted(doubted - set(wanted))
        else:
            wanted += self._due(doubts.values(), wanted, count_live(heads))
        by_id = {head.annotation_id: head for head in heads}
        for start in range(0, len(wanted), _TASKS_PER_CALL):
            few = wanted[start : start + _TASKS_PER_CALL]
            self._compare(project_id, project.label_config, few, tasks_of, by_id, progress)
        self._decide(project_id, by_id, doubts, progress, is_approved=is_approved)
        compared = {} if is_full else dict(self._compared.get(project_id, {}))
        compared |= {task.id: task.updated_at for task in tasks}
        self._compared[project_id] = {
            task_id: moment
            for task_id, moment in compared.items()
            if task_id not in progress.unsettled
        }
        newest = max((task.updated_at for task in tasks), default=since)
        self._repository.move_cursor(project_id, min(max(newest, since), from_us(now_us())))
        _log_repair(project_id, progress.repair)
        return progress.repair

    def _suspicious(
        self,
        project_id: int,
        tasks: Sequence[TaskSummary],
        heads: _Heads,
        *,
        since: datetime,
    ) -> list[int]:
        """Returns ids of tasks that changed, or whose number of annotations differs."""
        compared = self._compared.get(project_id, {})
        wanted = []
        for task in tasks:
            known = heads.get(task.id, {})
            last = compared.get(task.id)
            # An earlier time is a change as well: a clock may be set back.
            has_changed = task.updated_at > since if last is None else last != task.updated_at
            if task.annotation_count != count_live(known.values()) or (has_changed and known):
                wanted.append(task.id)
        return wanted

    def _vanished(
        self, project_id: int, tasks: Sequence[TaskSummary], heads: _Heads, progress: _Progress
    ) -> list[int]:
        """Returns ids of tasks that the journal knows and Label Studio did not list."""
        listed = {task.id for task in tasks}
        live = {task_id for task_id, known in heads.items() if count_live(known.values())}
        if live and not live & listed:
            # Another Label Studio, or a copy of its database: spare thousands of requests.
            for task_id in sorted(live):
                self._miss(project_id, task_id, heads[task_id].values(), progress)
            return []
        return sorted(live - listed)

    def _due(self, doubts: Iterable[Doubt], wanted: Sequence[int], live: int) -> list[int]:
        """Returns ids of tasks with doubts that are old enough to be confirmed.

        None of them if the doubts are too many: they need approval first.
        """
        pending = list(doubts)
        if is_too_much(len(pending), live):
            return []  # the next full comparison includes them
        before_us = now_us() - self._confirm_after_us
        due = {doubt.task_id for doubt in pending if doubt.first_seen_us <= before_us}
        return sorted(due - set(wanted))

    def _compare(
        self,
        project_id: int,
        label_config: str,
        task_ids: Sequence[int],
        heads: _Heads,
        by_id: Mapping[int, LiveHead],
        progress: _Progress,
    ) -> None:
        """Compares some tasks with their heads in the journal."""
        annotated = self._with_retries(lambda: fetch_annotated(self._client, project_id, task_ids))
        for task_id in task_ids:
            known = heads.get(task_id, {})
            events: tuple[Event, ...] = ()
            if task_id in annotated:
                try:
                    events = missed_events(
                        annotated[task_id], project_id=project_id, label_config=label_config
                    )
                except RequestError as error:
                    progress.repair += Repair(unreadable=1)
                    _log.warning("task %s: %s", task_id, error, extra={"event": "task_unreadable"})
                    continue
            for event in events:
                self._compare_state(event, task_id, by_id.get(event.annotation_id or 0), progress)
            present = {event.annotation_id for event in events}
            missing = [head for head in known.values() if head.annotation_id not in present]
            self._miss(project_id, task_id, missing, progress)

    def _compare_state(
        self, event: Event, task_id: int, head: LiveHead | None, progress: _Progress
    ) -> None:
        """Compares the state of one annotation in Label Studio with its head in the journal."""
        if head is None:
            progress.repair += Repair(recovered=self._observe(event, None))
            return
        progress.compared.add(head.annotation_id)
        if not head.is_deleted and is_journalled(self._repository.store, event, head):
            return
        stamp_us = 0 if event.updated_at is None else to_us(event.updated_at)
        if not head.is_deleted and stamp_us > head.version_us:
            progress.repair += Repair(recovered=self._observe(event, head))
        elif not _is_settled(head):
            progress.unsettled.add(task_id)
        elif head.is_deleted or head.version_us > now_us() + AHEAD_US:
            # The annotation is there after all; or the journal's time cannot tell the older state.
            progress.repair += Repair(recovered=self._observe(event, head))
        else:
            progress.contradictions.append(Contradiction(head, task_id, event, event.key))

    def _miss(
        self, project_id: int, task_id: int, missing: Iterable[LiveHead], progress: _Progress
    ) -> None:
        """Notes annotations that should be in Label Studio's answer and are missing."""
        for head in missing:
            progress.compared.add(head.annotation_id)
            if head.is_deleted:
                continue
            if not _is_settled(head):
                progress.unsettled.add(task_id)
                continue
            deletion = deletion_event(project_id, head.annotation_id)
            progress.contradictions.append(Contradiction(head, task_id, deletion))

    def _decide(
        self,
        project_id: int,
        by_id: Mapping[int, LiveHead],
        doubts: Mapping[int, Doubt],
        progress: _Progress,
        *,
        is_approved: bool,
    ) -> None:
        """Journals the confirmed contradictions and keeps the others as doubts."""
        pending, confirmed = weigh(
            progress.contradictions,
            doubts,
            by_id,
            compared=progress.compared,
            now_us=now_us(),
            confirm_after_us=self._confirm_after_us,
            is_approved=is_approved,
        )
        for contradiction in confirmed:
            is_deletion = contradiction.event.is_deletion
            count = self._observe(contradiction.event, contradiction.head)
            progress.repair += Repair(deleted=count) if is_deletion else Repair(recovered=count)
            del pending[contradiction.head.annotation_id]
        progress.repair += Repair(held_back=len(pending))
        keep = self._repository.replace_doubts
        self._with_retries(lambda: keep(project_id, doubts.values(), pending.values()))

    def _observe(self, event: Event, head: LiveHead | None) -> int:
        """Journals a state that Label Studio shows; returns 0 if a newer event came meanwhile."""
        expected = None if head is None else head.key
        record = self._repository.store.record_observation
        return int(self._with_retries(lambda: record(event, expected=expected)))

    def _with_retries(self, call: Callable[[], _T]) -> _T:
        """Repeats a failed call after each pause, or after the pause that the error asks for."""
        for pause_s in self._pauses_s:
            try:
                return call()
            except LabelStudioAuthError:
                raise
            except (LabelStudioError, BusyError) as error:
                _log.info("trying again: %s", error, extra={"event": "reconcile_retry"})
                self._sleep(max(pause_s, error.retry_after_s or 0))
        return call()


def is_journalled(store: Store, event: Event, head: LiveHead) -> bool:
    """Whether a state of an annotation that Label Studio shows is its head in the journal."""
    stamp_us = 0 if event.updated_at is None else to_us(event.updated_at)
    if stamp_us != head.version_us:
        return False
    keys = annotation_keys(event)
    if head.key in keys:
        return True
    # The same state may be journalled once more under another key.
    stored = store.find_event(head.key)
    return (
        stored is not None and bool(stored.event.payload) and keys == annotation_keys(stored.event)
    )


def _by_task(heads: Sequence[LiveHead]) -> _Heads:
    """Heads by task and annotation id, deleted annotations included."""
    tasks: dict[int, dict[int, LiveHead]] = {}
    for head in heads:
        if head.task_id is not None:
            tasks.setdefault(head.task_id, {})[head.annotation_id] = head
    return tasks


def _is_settled(head: LiveHead) -> bool:
    """Whether a state is old enough to be in Label Studio's answers."""
    return now_us() - head.received_us > _GRACE_US


def _log_repair(project_id: int, repair: Repair) -> None:
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
