"""What Label Studio has and the journal has not: finds it, and journals it like an event.

Label Studio sends each event once and waits one second; what it could not deliver is only in its
database. Nothing is derived here, and nothing is changed in Label Studio.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

from backend.clock import now_us, to_us
from backend.errors import BusyError, LabelStudioAuthError, LabelStudioError, RequestError
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.event import deletion_event, missed_events
from backend.label_studio.history import TaskSummary, fetch_annotated, find_tasks
from backend.learning.repository import CorrectionRepository
from backend.learning.rows import LiveHead
from backend.types import Event

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_OVERLAP = timedelta(minutes=5)
# Label Studio tells us before it commits: what is younger may not be in its answers yet.
_GRACE_US = 60_000_000
_TASKS_PER_CALL = 10
PAUSES_S = (1.0, 5.0, 30.0)
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)

_Heads = Mapping[int, Mapping[int, LiveHead]]


@dataclass(frozen=True)
class Repair:
    """What one comparison found.

    Attributes:
        recovered: annotation states that no event had told.
        deleted: deletions that no event had told.
        unreadable: tasks in a form that cannot be journalled.
    """

    recovered: int = 0
    deleted: int = 0
    unreadable: int = 0

    def __add__(self, other: Repair) -> Repair:
        return Repair(
            self.recovered + other.recovered,
            self.deleted + other.deleted,
            self.unreadable + other.unreadable,
        )


class Reconciler:
    """Compares projects with Label Studio.

    Args:
        repository: where the journal is.
        client: Label Studio.
        pauses_s: waiting times between tries of a call that failed.
        sleep: waits that many seconds; raises to give up.
    """

    def __init__(
        self,
        repository: CorrectionRepository,
        client: LabelStudioClient,
        *,
        pauses_s: Sequence[float] = PAUSES_S,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._repository = repository
        self._client = client
        self._pauses_s = pauses_s
        self._sleep = sleep
        self._compared: dict[int, dict[int, datetime]] = {}

    def reconcile(self, project_id: int, *, is_full: bool) -> Repair:
        """Journals every state and deletion of a project's annotations that no event told.

        Stopping half way is harmless: what was journalled stays, and the rest is found next time.

        Args:
            project_id: the project.
            is_full: look at every task, which also finds deleted tasks; else only at those that
                changed since the last time.

        Raises:
            LabelStudioError: Label Studio cannot be asked, also after some patience.
            BusyError: the journal is too slow, also after some patience.
            StoreError: the database cannot be read or written.
        """
        # Read first: a head that is here now and not in Label Studio's later answers is gone.
        heads = _by_task(self._repository.heads(project_id))
        cursor = self._repository.cursor(project_id)
        since = _NEVER if cursor is None else cursor.updated_at - _OVERLAP
        is_full = is_full or cursor is None
        project = self._patiently(lambda: self._client.project(project_id))
        tasks = self._patiently(
            lambda: list(find_tasks(self._client, project_id, since=None if is_full else since))
        )
        wanted = self._suspicious(project_id, tasks, heads, since=since)
        if is_full:
            wanted += self._vanished(project_id, tasks, heads)
        repair = Repair()
        for start in range(0, len(wanted), _TASKS_PER_CALL):
            few = wanted[start : start + _TASKS_PER_CALL]
            repair += self._compare(project_id, project.label_config, few, heads)
        self._compared[project_id] = {task.id: task.updated_at for task in tasks}
        newest = max((task.updated_at for task in tasks), default=since)
        self._repository.move_cursor(project_id, max(newest, since))
        if repair != Repair():
            _log.warning(
                "project %s: %d missed changes and %d missed deletions journalled, %d unreadable",
                project_id,
                repair.recovered,
                repair.deleted,
                repair.unreadable,
                extra={"event": "reconciled", "project": project_id},
            )
        return repair

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
            has_changed = task.updated_at > since and compared.get(task.id) != task.updated_at
            if task.annotation_count != _live(known) or (has_changed and known):
                wanted.append(task.id)
        return wanted

    def _vanished(self, project_id: int, tasks: Sequence[TaskSummary], heads: _Heads) -> list[int]:
        """Tasks of the journal that Label Studio did not name; they are asked for one by one."""
        named = {task.id for task in tasks}
        live = {task_id for task_id, known in heads.items() if _live(known)}
        live -= self._repository.deleted_tasks(project_id)
        if live and named and not live & named:
            # Another Label Studio, or a copy of its database, must not cost us every correction.
            _log.error(
                "project %s: Label Studio knows none of its %d annotated tasks; nothing is deleted",
                project_id,
                len(live),
                extra={"event": "reconcile_strange", "project": project_id},
            )
            return []
        return sorted(live - named)

    def _compare(
        self, project_id: int, label_config: str, task_ids: Sequence[int], heads: _Heads
    ) -> Repair:
        found = self._patiently(lambda: fetch_annotated(self._client, project_id, task_ids))
        missed: list[Event] = []
        unreadable = 0
        gone: list[Event] = []
        for task_id in task_ids:
            known = heads.get(task_id, {})
            events: tuple[Event, ...] = ()
            if task_id in found:
                try:
                    events = missed_events(
                        found[task_id], project_id=project_id, label_config=label_config
                    )
                except RequestError as error:
                    unreadable += 1
                    _log.warning("task %s: %s", task_id, error, extra={"event": "task_unreadable"})
                    continue
            missed += [event for event in events if _is_news(event, known)]
            there = {event.annotation_id for event in events}
            gone += [
                deletion_event(project_id, head.annotation_id)
                for head in known.values()
                if head.annotation_id not in there and self._is_settled(head)
            ]
        self._journal(missed)
        self._journal(gone)
        return Repair(len(missed), len(gone), unreadable)

    def _is_settled(self, head: LiveHead) -> bool:
        """Whether an annotation should be in Label Studio's answers by now."""
        received_us = self._repository.received_at_us(head.key)
        if head.is_deleted or received_us is None:
            return False
        return now_us() - received_us > _GRACE_US

    def _journal(self, events: Sequence[Event]) -> None:
        for event in events:  # one by one: a bulk of large bodies would hold up the webhook
            self._patiently(partial(self._repository.store.record_events, [event]))

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
    """Live heads by task and annotation."""
    tasks: dict[int, dict[int, LiveHead]] = {}
    for head in heads:
        if head.task_id is not None:
            tasks.setdefault(head.task_id, {})[head.annotation_id] = head
    return tasks


def _live(heads: Mapping[int, LiveHead]) -> int:
    return sum(not head.is_deleted for head in heads.values())


def _is_news(event: Event, known: Mapping[int, LiveHead]) -> bool:
    """Whether an annotation's state is newer than the journal's; a deletion is final."""
    head = known.get(event.annotation_id or 0)
    if head is None:
        return True
    if head.is_deleted or event.updated_at is None:
        return False
    return to_us(event.updated_at) > head.version_us
