"""What annotators did to each label, and what each version found: sums over the newest corrections.

The database sums, over a limited number of tasks, so that a page of a large project costs as much
as one of a small project. Reads the columns of `region_outcome`; no mask is decoded.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace

from cachetools import LRUCache
from sqlalchemy import ColumnElement, Subquery, and_, case, func, select

from backend.errors import RequestError
from backend.label_studio.event import read_schema, read_task
from backend.label_studio.label_set import vocabulary_in
from backend.learning.correction import RegionChange
from backend.learning.outlook import MeasuredPoint
from backend.learning.rows import Standing
from backend.storage.store import Store
from backend.storage.tables import correction, event_log, region_outcome
from backend.types import EventAction
from calico_model.evaluation.metrics import IOU_THRESHOLD
from calico_model.vocabulary import Vocabulary, name_of

NEWEST_TASKS = 500
_KEPT_SETS = 64
_MOST_LABELS = 1000  # of free text there is no limit otherwise
_WITH_ANNOTATION = (
    EventAction.ANNOTATION_CREATED.value,
    EventAction.ANNOTATION_UPDATED.value,
    EventAction.ANNOTATIONS_CREATED.value,
)
_REGION = region_outcome.c


@dataclass(frozen=True)
class LabelQuality:
    """What annotators did to the predicted regions of one label, and which ones they added.

    Attributes:
        label: exact text, or the most frequent spelling where any text may be written.
        shown: number of predicted regions with this label.
        accepted: of these, left unchanged.
        reshaped: of these, with another mask.
        renamed: of these, with another name or kind.
        removed: of these, taken away.
        reshaped_iou_sum: sum of the IoU of their masks before and after.
        added: regions with this label that an annotator drew by hand.
    """

    label: str
    shown: int = 0
    accepted: int = 0
    reshaped: int = 0
    renamed: int = 0
    removed: int = 0
    reshaped_iou_sum: float = 0.0
    added: int = 0

    @property
    def acceptance(self) -> float | None:
        """Share of the shown regions that were left unchanged, None if none was shown."""
        return self.accepted / self.shown if self.shown else None

    @property
    def reshaped_iou(self) -> float | None:
        """Mean IoU in [0, 1] of masks before and after reshaping, None if none was reshaped."""
        return self.reshaped_iou_sum / self.reshaped if self.reshaped else None

    @property
    def is_known(self) -> bool:
        """Whether a corrected task has this label at all."""
        return bool(self.shown or self.added)

    @property
    def is_untouched(self) -> bool:
        """Whether no annotator ever had to change or add a region of this label."""
        return self.accepted == self.shown and not self.added

    @property
    def rightness(self) -> float:
        """Share of shown and missing regions that were right as they were; 2 for unknown labels."""
        return self.accepted / (self.shown + self.added) if self.is_known else 2.0


_COUNTS = tuple(field.name for field in fields(LabelQuality) if field.name != "label")


def worst_first(qualities: Iterable[LabelQuality]) -> tuple[LabelQuality, ...]:
    """Sorts labels: the least right first, the more frequent of equals first, unknown ones last."""
    return tuple(
        sorted(qualities, key=lambda one: (one.rightness, -one.shown - one.added, one.label))
    )


class LabelSets:
    """The labels of each project's config in its newest annotation event. Threads may share it.

    Args:
        store: the database.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, threading.Lock()
        # An event may be megabytes of masks, and a page is loaded again every few seconds.
        self._known: LRUCache[str, Vocabulary | None] = LRUCache(_KEPT_SETS)

    def of(self, project_id: int) -> Vocabulary | None:
        """Returns the labels; None where any text may be written, or nothing usable was sent."""
        query = (
            select(event_log.c.key)
            .where(event_log.c.project_id == project_id, event_log.c.action.in_(_WITH_ANNOTATION))
            .order_by(event_log.c.seq.desc())
            .limit(1)
        )
        with self._store.read() as connection:
            key = connection.execute(query).scalar()
        if key is None:
            return None
        with self._lock:
            if key not in self._known:
                self._known[key] = self._read(key)
            return self._known[key]

    def _read(self, key: str) -> Vocabulary | None:
        stored = self._store.find_event(key)
        try:
            if stored is not None:
                return vocabulary_in(read_schema(stored.event), read_task(stored.event).labels)
        except RequestError:
            pass
        return None


def read_label_quality(
    store: Store, project_id: int, vocabulary: Vocabulary | None, *, tasks: int = NEWEST_TASKS
) -> tuple[LabelQuality, ...]:
    """Returns the quality per label over the newest corrected tasks, worst first.

    Args:
        store: the database.
        project_id: Label Studio's project id.
        vocabulary: every label of it is listed; None lists those that occur.
        tasks: number of newest corrected tasks.
    """
    newest = _newest(project_id, tasks)
    shown = (
        select(
            _REGION.label_before,
            func.count(),
            _count(_REGION.change == 0),
            _count(_has(RegionChange.RESHAPED)),
            _count(_has(RegionChange.RELABELLED | RegionChange.KIND_CHANGED)),
            _count(_has(RegionChange.REMOVED)),
            func.coalesce(func.sum(case((_has(RegionChange.RESHAPED), _REGION.iou))), 0.0),
        )
        .join(newest, _same_task(project_id, newest))
        .where(_REGION.label_before.is_not(None))
        .group_by(_REGION.label_before)
        .order_by(func.count().desc(), _REGION.label_before)
        .limit(_MOST_LABELS)
    )
    added = (
        select(_REGION.label_after, func.count())
        .join(newest, _same_task(project_id, newest))
        .where(_has(RegionChange.ADDED), _REGION.label_after.is_not(None))
        .group_by(_REGION.label_after)
        .order_by(func.count().desc(), _REGION.label_after)
        .limit(_MOST_LABELS)
    )
    with store.read() as connection:
        rows = [LabelQuality(*row) for row in connection.execute(shown)]
        rows += [LabelQuality(label, added=count) for label, count in connection.execute(added)]
    known = () if vocabulary is None else vocabulary.labels[:_MOST_LABELS]
    return worst_first(_summed((*map(LabelQuality, known), *rows), vocabulary))


def _summed(rows: Iterable[LabelQuality], vocabulary: Vocabulary | None) -> Iterable[LabelQuality]:
    """Adds up the spellings of one name; the first spelling is shown."""
    sums: dict[str, LabelQuality] = {}
    for row in rows:
        name = name_of(row.label, vocabulary)
        known = sums.setdefault(name, LabelQuality(row.label))
        counts = {field: getattr(known, field) + getattr(row, field) for field in _COUNTS}
        sums[name] = replace(known, **counts)
    return sums.values()


def corrected_labels(store: Store, project_id: int, *, tasks: int = NEWEST_TASKS) -> dict[str, int]:
    """Returns the labels that annotators left regions with, and in how many tasks each.

    Args:
        store: the database.
        project_id: Label Studio's project id.
        tasks: number of newest corrected tasks.
    """
    newest = _newest(project_id, tasks)
    query = (
        select(_REGION.label_after, func.count(newest.c.task_id.distinct()))
        .join(newest, _same_task(project_id, newest))
        .where(_REGION.label_after.is_not(None))
        .group_by(_REGION.label_after)
        .order_by(_REGION.label_after)
        .limit(_MOST_LABELS)
    )
    with store.read() as connection:
        return {str(label): int(count) for label, count in connection.execute(query)}


def lost_labels(found: Mapping[str, int], vocabulary: Vocabulary | None) -> dict[str, int]:
    """Returns the labels of `corrected_labels` that a project has no more; {} of an open set."""
    if vocabulary is None:
        return {}
    return {label: count for label, count in found.items() if vocabulary.find(label) is None}


def measured_points(
    store: Store, project_id: int, learned: Mapping[str, int], *, tasks: int = NEWEST_TASKS
) -> tuple[MeasuredPoint, ...]:
    """Returns what each version found in the newest tasks that started from its predictions.

    Args:
        store: the database.
        project_id: Label Studio's project id.
        learned: version -> number of corrected groups it had learned; others had learned none.
        tasks: number of newest corrected tasks.
    """
    newest = _newest(project_id, tasks)
    is_right = and_(
        _REGION.change.in_((0, RegionChange.RESHAPED.value)), _REGION.iou >= IOU_THRESHOLD
    )
    is_left = and_(
        _REGION.change.is_not(None), _REGION.change.not_in((RegionChange.REMOVED.value,))
    )
    query = (
        select(
            newest.c.version,
            func.count(newest.c.task_id.distinct()),
            _count(is_right),
            _count(is_left),
        )
        .select_from(newest.outerjoin(region_outcome, _same_task(project_id, newest)))
        .where(newest.c.version.is_not(None))
        .group_by(newest.c.version)
    )
    with store.read() as connection:
        rows = connection.execute(query).all()
    return tuple(
        MeasuredPoint(learned.get(version, 0), int(count), int(found), int(regions))
        for version, count, found, regions in rows
    )


def _newest(project_id: int, tasks: int) -> Subquery:
    """The newest corrected tasks: `task_id` and `version`."""
    return (
        select(correction.c.task_id, correction.c.version)
        .where(
            correction.c.project_id == project_id,
            correction.c.outcome == Standing.CORRECTED.value,
        )
        .order_by(correction.c.seq.desc())
        .limit(tasks)
        .subquery()
    )


def _same_task(project_id: int, newest: Subquery) -> ColumnElement[bool]:
    return and_(
        _REGION.project_id == project_id,
        _REGION.task_id == newest.c.task_id,
    )


def _has(change: RegionChange) -> ColumnElement[bool]:
    return _REGION.change.bitwise_and(change.value) != 0


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)
