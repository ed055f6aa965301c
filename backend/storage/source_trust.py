"""What sources answered, and what corrections say about it: the trust of every project.

Serving records the answers and does not wait. Learning judges them by the task's correction: one
row per task, replaced as a whole, so that a correction counts once however often, and by however
many processes, it is judged. Serving reads the sum. Knows masks and counts; not who is asked when.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import Connection, delete, func, select

from backend.clock import now_us
from backend.decoding import read_msgpack
from backend.errors import StoreError
from backend.rle import mask_of, runs_of
from backend.storage.store import Store
from backend.storage.tables import source_answer, source_judgement
from calico_model.sources.consensus import SourceProposal
from calico_model.sources.source import Ability
from calico_model.sources.trust import TrustCounts, TrustKey, TrustTable, add_counts
from calico_model.types import BoolMask

_log = logging.getLogger(__name__)
NEWEST_TASKS = 500
"""How many judged tasks of a project count, the newest: a source may get better, or worse."""

_KEPT_TASKS = 2 * NEWEST_TASKS
"""How many are kept: where newer annotations are deleted, older ones count again."""

_MOST_ANSWERS = 20_000  # of all projects; about 2 KB each
_MOST_DROPPED = 500  # judgements in one change
_PRUNE_EVERY = 256  # recorded answers between two prunings
_TIMEOUT_S = 30.0
_READ_EVERY_S = 2.0


class _StoredMask(msgspec.Struct, array_like=True):
    source: str
    label: str | None
    score: float
    runs: bytes  # int32, start and end of each run


class _StoredAnswer(msgspec.Struct, array_like=True):
    height: int
    width: int
    asked: list[str]
    labels: list[str]
    masks: list[_StoredMask]


class _StoredCounts(msgspec.Struct, array_like=True):
    source: str
    ability: str
    label: str
    proposals: int
    kept: int
    overlap: float
    regions: int


@dataclass(frozen=True, eq=False)
class RecordedAnswer:
    """What all asked sources answered to one question about one image of a task.

    Attributes:
        project_id, task_id: Label Studio's ids.
        image_index: 0-based position of the image in the task.
        ability: kind of the question.
        question: what was asked, up to 64 characters. A later answer to the same question replaces
            the earlier one: further clicks on a region refine its first answer.
        size_hw: (height, width) of the image in pixels.
        asked: sources that answered, with or without a mask.
        labels: the names that were asked for; of a click the selected label, or none.
        proposals: their masks.
        made_at_us: when it was recorded, in microseconds since 1970; 0 before that.
    """

    project_id: int
    task_id: int
    image_index: int
    ability: Ability
    question: str
    size_hw: tuple[int, int]
    asked: tuple[str, ...]
    labels: tuple[str, ...]
    proposals: tuple[SourceProposal, ...]
    made_at_us: int = 0


class SourceAnswerStore:
    """Answers and judgements in one database. Threads may share it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._recorded = 0

    def record(self, answer: RecordedAnswer) -> bool:
        """Queues an answer to be kept; does not wait. False if too many changes wait already."""
        self._recorded += 1
        prunes = self._recorded % _PRUNE_EVERY == 0

        def keep(connection: Connection) -> None:
            # Masks are packed here, in the writer's thread: the request does not wait for it.
            row = self._store.insert(source_answer).values(
                project_id=answer.project_id,
                task_id=answer.task_id,
                image_index=answer.image_index,
                ability=answer.ability.value,
                question=answer.question,
                body=_encode(answer),
                made_at_us=made_at_us,
            )
            newest = {name: row.excluded[name] for name in ("body", "made_at_us")}
            keys = list(source_answer.primary_key.columns)
            connection.execute(row.on_conflict_do_update(index_elements=keys, set_=newest))
            if prunes:
                _prune(connection)

        made_at_us = now_us()
        return self._store.queue(keep)

    def projects(self) -> tuple[int, ...]:
        """Returns every project with an answer or a judgement, rising."""
        with self._store.read() as connection:
            ids: set[int] = set()
            for table in (source_answer, source_judgement):
                ids |= set(connection.execute(select(table.c.project_id).distinct()).scalars())
        return tuple(sorted(ids))

    def answered(self, project_id: int) -> Mapping[int, tuple[int, ...]]:
        """Returns when the answers of each task were recorded, in microseconds, by task id."""
        columns = source_answer.c
        query = (
            select(columns.task_id, columns.made_at_us)
            .where(columns.project_id == project_id)
            .order_by(columns.task_id, columns.made_at_us)
        )
        tasks: dict[int, list[int]] = {}
        with self._store.read() as connection:
            for task_id, made_at_us in connection.execute(query):
                tasks.setdefault(task_id, []).append(made_at_us)
        return {task_id: tuple(times) for task_id, times in tasks.items()}

    def answers(self, project_id: int, task_id: int) -> tuple[RecordedAnswer, ...]:
        """Returns all answers of one task, oldest first."""
        columns = source_answer.c
        query = (
            select(source_answer)
            .where(columns.project_id == project_id, columns.task_id == task_id)
            .order_by(columns.made_at_us, columns.image_index, columns.question)
        )
        with self._store.read() as connection:
            return tuple(_decode(row) for row in connection.execute(query).mappings())

    def judged(self, project_id: int) -> Mapping[int, str]:
        """Returns by task id the state that its judgement was made from."""
        columns = source_judgement.c
        query = select(columns.task_id, columns.state).where(columns.project_id == project_id)
        with self._store.read() as connection:
            return {row.task_id: row.state for row in connection.execute(query)}

    def judge(
        self, project_id: int, task_id: int, state: str, counts: Mapping[TrustKey, TrustCounts]
    ) -> None:
        """Replaces what is recorded of one task about the sources.

        Raises:
            BusyError: the database is too slow; judging again is safe.
            StoreError: the database refused the change.
        """
        body = [
            _StoredCounts(*key, one.proposals, one.kept, one.overlap, one.regions)
            for key, one in sorted(counts.items())
        ]
        row = self._store.insert(source_judgement).values(
            project_id=project_id,
            task_id=task_id,
            state=state,
            counts=msgspec.msgpack.encode(body),
            judged_at_us=now_us(),
        )
        newest = {name: row.excluded[name] for name in ("state", "counts", "judged_at_us")}
        upsert = row.on_conflict_do_update(index_elements=["project_id", "task_id"], set_=newest)

        def change(connection: Connection) -> None:
            connection.execute(upsert)

        self._store.write(change, timeout_s=_TIMEOUT_S)

    def forget(self, project_id: int, task_ids: Iterable[int]) -> None:
        """Removes the judgements of tasks that have no correction any more."""
        gone = sorted(task_ids)
        columns = source_judgement.c
        rows = delete(source_judgement).where(
            columns.project_id == project_id, columns.task_id.in_(gone)
        )

        def change(connection: Connection) -> None:
            connection.execute(rows)

        if gone:
            self._store.write(change, timeout_s=_TIMEOUT_S)

    def drop_old(self, project_id: int) -> int:
        """Deletes the judgements that no trust is read from any more; returns how many.

        The answers that they were made from go with them, so that they are not judged again.

        Raises:
            BusyError: the database is too slow; dropping again is safe.
            StoreError: the database refused the change.
        """
        columns = source_judgement.c
        old = (
            select(columns.task_id)
            .where(columns.project_id == project_id)
            .order_by(columns.judged_at_us.desc(), columns.task_id.desc())
            .offset(_KEPT_TASKS)
        )
        with self._store.read() as connection:
            tasks = list(connection.execute(old.limit(_MOST_DROPPED)).scalars())

        def change(connection: Connection) -> None:
            for table in (source_answer, source_judgement):
                rows = delete(table).where(
                    table.c.project_id == project_id, table.c.task_id.in_(tasks)
                )
                connection.execute(rows)

        if tasks:
            self._store.write(change, timeout_s=_TIMEOUT_S)
        return len(tasks)

    def stamp(self, project_id: int) -> tuple[int, int]:
        """Returns the number of judgements and the time of the newest; equal where none changed."""
        columns = source_judgement.c
        query = select(func.count(), func.coalesce(func.max(columns.judged_at_us), 0)).where(
            columns.project_id == project_id
        )
        with self._store.read() as connection:
            count, newest_us = connection.execute(query).one()
        return int(count), int(newest_us)

    def trust(self, project_id: int) -> TrustTable:
        """Returns the trust that the newest judged tasks of a project add up to."""
        columns = source_judgement.c
        query = (
            select(columns.counts)
            .where(columns.project_id == project_id)
            .order_by(columns.judged_at_us.desc(), columns.task_id.desc())
            .limit(NEWEST_TASKS)
        )
        with self._store.read() as connection:
            bodies = list(connection.execute(query).scalars())
        return TrustTable(add_counts(map(_counts, bodies)))


class TrustCache:
    """The trust of every project, read from the database at most every two seconds.

    Threads may share it.

    Args:
        answers: of the database.
        clock: seconds that only grow.
    """

    def __init__(
        self, answers: SourceAnswerStore, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._answers, self._clock = answers, clock
        self._lock = threading.Lock()
        self._known: dict[int, tuple[float, tuple[int, int], TrustTable]] = {}

    def of(self, project_id: int | None) -> TrustTable:
        """Returns the trust of a project; without a project, that where nobody was judged.

        While the database cannot be read, the trust read last stays.
        """
        if project_id is None:
            return TrustTable()
        now = self._clock()
        with self._lock:
            known = self._known.get(project_id)
        if known is not None and now - known[0] < _READ_EVERY_S:
            return known[2]
        try:
            stamp = self._answers.stamp(project_id)
            is_same = known is not None and known[1] == stamp
            table = known[2] if known is not None and is_same else self._answers.trust(project_id)
        except StoreError as error:
            about = {"event": "source_trust_unread", "project": project_id}
            _log.warning("%s", error, extra=about)
            return TrustTable() if known is None else known[2]
        with self._lock:
            self._known[project_id] = (now, stamp, table)
        return table


def question_hash(*words: object) -> str:
    """Returns the name of a question: a hash of what makes it the same question."""
    return hashlib.sha256(repr(words).encode()).hexdigest()


def _encode(answer: RecordedAnswer) -> bytes:
    masks = [
        _StoredMask(one.source, one.label, one.score, _packed(one.mask)) for one in answer.proposals
    ]
    height, width = answer.size_hw
    stored = _StoredAnswer(height, width, list(answer.asked), list(answer.labels), masks)
    return msgspec.msgpack.encode(stored)


def _decode(row: Mapping[Any, Any]) -> RecordedAnswer:
    stored = read_msgpack(row["body"], _StoredAnswer)
    size_hw = stored.height, stored.width
    return RecordedAnswer(
        project_id=row["project_id"],
        task_id=row["task_id"],
        image_index=row["image_index"],
        ability=Ability(row["ability"]),
        question=row["question"],
        size_hw=size_hw,
        asked=tuple(stored.asked),
        labels=tuple(stored.labels),
        proposals=tuple(
            SourceProposal(one.source, _unpacked(one.runs, size_hw), one.score, one.label)
            for one in stored.masks
        ),
        made_at_us=row["made_at_us"],
    )


def _packed(mask: BoolMask) -> bytes:
    return runs_of(mask).astype("<i4").tobytes()


def _unpacked(body: bytes, size_hw: tuple[int, int]) -> BoolMask:
    runs = np.frombuffer(body, "<i4").astype(np.int64).reshape(-1, 2)
    return mask_of(runs, size_hw)


def _counts(body: bytes) -> dict[TrustKey, TrustCounts]:
    rows = read_msgpack(body, list[_StoredCounts])
    return {
        TrustKey(row.source, Ability(row.ability), row.label): TrustCounts(
            row.proposals, row.kept, row.overlap, row.regions
        )
        for row in rows
    }


def _prune(connection: Connection) -> None:
    """Deletes the oldest answers beyond the ceiling."""
    columns = source_answer.c
    oldest_kept = (
        select(columns.made_at_us)
        .order_by(columns.made_at_us.desc())
        .offset(_MOST_ANSWERS - 1)
        .limit(1)
    )
    limit = connection.execute(oldest_kept).scalar()
    if limit is not None:
        connection.execute(delete(source_answer).where(columns.made_at_us < limit))
