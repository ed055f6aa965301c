"""Derives corrections from the journal: finds the tasks with new events and compares each anew.

A correction depends on the newest state of the task's annotations and on the prediction each of
them started from. Both are stored, so deriving again gives the same result, in any portions and
after any crash. Each task is written in one transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from backend.clock import from_us
from backend.errors import LabelStudioError, RequestError
from backend.label_studio.annotation import parse_regions
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.event import read_annotation, read_schema, read_task
from backend.label_studio.history import fetch_prediction
from backend.label_studio.label_set import vocabulary_in
from backend.learning.agreement import choose, measure_agreement
from backend.learning.correction import Correction, diff
from backend.learning.repository import CorrectionRepository
from backend.learning.rows import NOT_SEEN, LiveHead, Standing, StartingPoint, TaskRow, state_of
from backend.storage.journal import RACE_US
from backend.types import Annotation, Event, Region, RegionOrigin

_log = logging.getLogger(__name__)
_MOST_FAILURES = 3  # requests that fail in a row; then none is sent until the next derivation


class PredictionSource(Protocol):
    """Source of predictions that only Label Studio stores."""

    def find(self, prediction_id: int) -> StartingPoint | None:
        """Returns a prediction, None if it is gone; raises LabelStudioError."""


class StudioPredictions:
    """Label Studio's predictions, fetched one by one."""

    def __init__(self, client: LabelStudioClient) -> None:
        self._client = client

    def find(self, prediction_id: int) -> StartingPoint | None:
        """Returns a prediction, None if it is gone.

        Raises:
            LabelStudioError: the request failed.
        """
        stored = fetch_prediction(self._client, prediction_id)
        return None if stored is None else StartingPoint(stored.id, stored.version, stored.result)


@dataclass(frozen=True)
class Derived:
    """Number of tasks that one derivation handled.

    Attributes:
        changed: tasks whose correction is new or different.
        dropped: tasks that have no annotation any more.
        waiting: tasks whose starting point could not be fetched; the next derivation tries again.
    """

    changed: int = 0
    dropped: int = 0
    waiting: int = 0


@dataclass(frozen=True, eq=False)
class _SourcedAnnotation:
    """One annotation with the event that contains it, and the head that names the event."""

    annotation: Annotation
    event: Event
    head: LiveHead

    @property
    def moment_us(self) -> int:
        """When it was made, in microseconds since 1970, by this machine's clock where possible."""
        # An annotation that reconciling found in Label Studio may have been made long before.
        received_us = self.head.journalled_us
        return min(self.head.changed_us, received_us) if self.head.is_observed else received_us


@dataclass(frozen=True)
class _Heads:
    """The newest states of all annotations of one task, deleted annotations included."""

    all: tuple[LiveHead, ...]

    @property
    def live(self) -> tuple[LiveHead, ...]:
        """Heads of annotations that are not deleted."""
        return tuple(head for head in self.all if not head.is_deleted)

    @property
    def seq(self) -> int:
        """Place of the newest event; deletions count, they may make an older annotation valid."""
        return max(head.seq for head in self.all)


class Derivation:
    """Keeps the corrections of a store up to date.

    Args:
        repository: the database of corrections.
        source: Label Studio's predictions; None without an API key: then the answers that this
            backend kept are used.
    """

    def __init__(
        self, repository: CorrectionRepository, source: PredictionSource | None = None
    ) -> None:
        self._repository = repository
        self._source = source
        self._failures = 0

    def derive(
        self, project_id: int, *, on_progress: Callable[[int, int], None] | None = None
    ) -> Derived:
        """Derives every task of a project that has new events.

        Args:
            project_id: Label Studio's project id.
            on_progress: called with the number of finished tasks and of all.

        Raises:
            StoreError: the database cannot be read or written.
            BusyError: the database is too slow; finished tasks stay written.
        """
        self._failures = 0
        # Read before the tasks: a task that another process derives in between must not look as if
        # it had no annotation.
        known = self._repository.states(project_id)
        tasks = self._live_tasks(project_id)
        changed = {
            task_id: heads
            for task_id, heads in tasks.items()
            if known.get(task_id) != state_of(heads.all)
        }
        waiting = 0
        for done, (task_id, heads) in enumerate(changed.items(), start=1):
            try:
                row, correction = self._derive_task(project_id, task_id, heads)
                self._repository.put(project_id, row, correction)
            except LabelStudioError as error:
                waiting += 1
                _log.warning(
                    "correction of task %s waits: %s",
                    task_id,
                    error,
                    extra={"event": "correction_waits", "project": project_id},
                )
            if on_progress is not None:
                on_progress(done, len(changed))
        gone = known.keys() - tasks.keys()
        self._repository.drop(project_id, gone)
        return Derived(len(changed) - waiting, len(gone), waiting)

    def rebuild(
        self, project_id: int, *, on_progress: Callable[[int, int], None] | None = None
    ) -> Derived:
        """Deletes the derived state of a project and derives it again from the journal.

        Raises:
            StoreError: the database cannot be read or written.
            BusyError: the database is too slow; `derive` continues the work.
        """
        self._repository.forget(project_id)
        return self.derive(project_id, on_progress=on_progress)

    def load(self, project_id: int, task_id: int) -> Correction | None:
        """Returns the correction of one task with its masks, or None if it has none.

        Raises:
            StoreError: the database cannot be read.
            LabelStudioError: the prediction it started from is unknown and cannot be fetched.
        """
        heads = self._live_tasks(project_id, task_id).get(task_id)
        return None if heads is None else self._derive_task(project_id, task_id, heads)[1]

    def _live_tasks(self, project_id: int, only: int | None = None) -> Mapping[int, _Heads]:
        """Heads by task, of tasks with at least one annotation that is not deleted."""
        tasks: dict[int, list[LiveHead]] = {}
        for head in self._repository.heads(project_id, task_id=only):
            if head.task_id is not None:
                tasks.setdefault(head.task_id, []).append(head)
        by_task = {task_id: _Heads(tuple(heads)) for task_id, heads in tasks.items()}
        return {task_id: heads for task_id, heads in by_task.items() if heads.live}

    def _derive_task(
        self, project_id: int, task_id: int, heads: _Heads
    ) -> tuple[TaskRow, Correction | None]:
        """Derives one task: its row, and its correction unless it was skipped or is unreadable."""
        # With deleted annotations: the place of the newest event depends on them.
        state, seq = state_of(heads.all), heads.seq
        try:
            sourced = {source.annotation.id: source for source in self._read(heads.live)}
            annotations = _in_order_of_receipt(tuple(sourced.values()))
            chosen = choose(annotations)
            if chosen is None:
                was_seen = all(annotation.was_seen for annotation in annotations)
                problem = None if was_seen else NOT_SEEN
                return TaskRow(task_id, state, seq, Standing.SKIPPED, problem=problem), None
            correction = self._compare(project_id, sourced[chosen.id], annotations)
        except RequestError as error:
            # Kept as a row: a body that cannot be read today cannot be read tomorrow.
            _log.warning(
                "correction of task %s: %s",
                task_id,
                error,
                extra={"event": "correction_unreadable", "project": project_id},
            )
            return TaskRow(task_id, state, seq, Standing.UNREADABLE, problem=str(error)), None
        return _row(task_id, state, seq, correction), correction

    def _read(self, heads: Iterable[LiveHead]) -> Iterable[_SourcedAnnotation]:
        for head in heads:
            stored = self._repository.store.find_event(head.key)
            if stored is not None:
                annotation = read_annotation(stored.event)
                # Label Studio's clock may be ahead.
                made_at = min(annotation.updated_at, stored.received_at)
                if head.made_us is not None:  # a label was renamed since: nobody looked at it
                    made_at = from_us(min(head.made_us))
                annotation = replace(annotation, updated_at=made_at)
                yield _SourcedAnnotation(annotation, stored.event, head)

    def _compare(
        self, project_id: int, sourced: _SourcedAnnotation, annotations: Sequence[Annotation]
    ) -> Correction:
        annotation = sourced.annotation
        start = self._starting_point(project_id, sourced)
        schema, task = read_schema(sourced.event), read_task(sourced.event)
        before = () if start.regions is None else parse_regions(start.regions, schema)
        vocabulary = vocabulary_in(schema, task.labels)
        difference = diff(before, annotation.regions, annotation.unread, vocabulary)
        return Correction(
            task=task,
            annotation_id=annotation.id,
            annotator_id=annotation.annotator_id,
            updated_at=annotation.updated_at,
            version=start.version,
            outcomes=difference.outcomes,
            same_part=annotation.same_part,
            is_ground_truth=annotation.is_ground_truth,
            agreement=measure_agreement(annotation, annotations),
            unreadable=difference.unreadable,
            unknown=difference.unknown,
            vocabulary=vocabulary,
        )

    def _starting_point(self, project_id: int, sourced: _SourcedAnnotation) -> StartingPoint:
        """Returns the stored starting point; finds and stores it at the first call."""
        annotation = sourced.annotation
        known = self._repository.starting_point(project_id, annotation.id)
        if known is not None:
            return known
        start = self._fetch(annotation) or self._guess(project_id, sourced) or StartingPoint()
        self._repository.keep_starting_point(project_id, annotation.id, start)
        return self._repository.starting_point(project_id, annotation.id) or start

    def _fetch(self, annotation: Annotation) -> StartingPoint | None:
        """Fetches the annotation's prediction from Label Studio; None without one."""
        if self._source is None or annotation.parent_prediction_id is None:
            return None
        if self._failures >= _MOST_FAILURES:
            # Hundreds of requests that time out would hold up every other project.
            raise LabelStudioError("Label Studio did not answer; it is asked again later")
        try:
            start = self._source.find(annotation.parent_prediction_id)
        except LabelStudioError:
            self._failures += 1
            raise
        self._failures = 0
        return start

    def _guess(self, project_id: int, sourced: _SourcedAnnotation) -> StartingPoint | None:
        """Returns the task's kept answer that shares the most regions with the annotation."""
        annotation, schema = sourced.annotation, read_schema(sourced.event)
        best, best_fit = None, (0, 0)
        # Newest first: of answers that fit equally well, Label Studio showed the newest.
        for answer in self._repository.kept_answers(project_id, annotation.task_id):
            try:
                regions = parse_regions(answer.regions or b"[]", schema)
            except RequestError:
                continue
            fit = _fit(regions, annotation.regions)
            if fit > best_fit:
                best, best_fit = answer, fit
            if best is None and annotation.parent_prediction_id is not None:
                best = answer  # the annotator may have removed all predicted regions
        return best


def _in_order_of_receipt(sourced: Sequence[_SourcedAnnotation]) -> list[Annotation]:
    """Returns annotations in the order of their receipt, with times that rise in that order.

    As in the journal, Label Studio's times only order events that may have overtaken each other on
    the way.
    """
    ordered: list[_SourcedAnnotation] = []
    for source in sorted(sourced, key=lambda each: (each.moment_us, each.annotation.id)):
        place = len(ordered)
        while place and _was_overtaken(source, ordered[place - 1]):
            place -= 1
        ordered.insert(place, source)
    annotations, last_us = [], 0
    for source in ordered:
        last_us = max(source.moment_us, last_us + 1)
        annotations.append(replace(source.annotation, updated_at=from_us(last_us)))
    return annotations


def _was_overtaken(second: _SourcedAnnotation, first: _SourcedAnnotation) -> bool:
    """Whether the annotation received second may have been made before the one received first."""
    if second.head.is_observed or first.head.is_observed:
        return False
    apart_us = first.head.changed_us - second.head.changed_us
    is_race = second.moment_us - first.moment_us <= RACE_US and 0 <= apart_us <= RACE_US
    return is_race and (apart_us > 0 or second.annotation.id < first.annotation.id)


def _fit(predicted: Sequence[Region], annotated: Sequence[Region]) -> tuple[int, int]:
    """Number of predicted regions that an annotation still has: (with untouched mask, in all).

    All versions give equal names equal ids, so an untouched mask is stronger evidence than an id.
    """
    by_place = {(region.image_index, region.id): region for region in predicted}
    pairs = [
        (by_place[place], region)
        for region in annotated
        if (place := (region.image_index, region.id)) in by_place
    ]
    untouched = sum(
        a.encoding == b.encoding for a, b in pairs if b.origin is not RegionOrigin.MANUAL
    )
    return untouched, len(pairs)


def _row(task_id: int, state: str, seq: int, correction: Correction) -> TaskRow:
    agreement = correction.agreement
    unreadable = ", ".join(correction.unreadable)
    problem = f"drawn, but no masks, or ones that cannot be decoded: {unreadable}"
    return TaskRow(
        task_id,
        state,
        seq,
        Standing.CORRECTED,
        problem=problem if correction.unreadable else None,
        annotation_id=correction.annotation_id,
        updated_at=correction.updated_at,
        version=correction.version,
        is_ground_truth=correction.is_ground_truth,
        annotators=1 if agreement is None else agreement.annotators,
        agreement=None if agreement is None else agreement.mean_iou,
        tally=correction.tally,
    )
