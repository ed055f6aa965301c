"""Journal -> corrections: which tasks have news, and what their annotations say by now.

A correction depends on the newest state of a task's annotations and on what each one started from,
both of which are kept; so deriving again, in whatever portions or after whatever crash, gives the
same. Each task is one transaction.
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
_MOST_REFUSALS = 3  # in a row; then Label Studio is left alone until the next derivation


class PredictionSource(Protocol):
    """Where predictions are that only Label Studio knows by id."""

    def find(self, prediction_id: int) -> StartingPoint | None:
        """Returns a prediction, None if it is gone; raises LabelStudioError."""


class StudioPredictions:
    """Label Studio's predictions, asked for one by one."""

    def __init__(self, client: LabelStudioClient) -> None:
        self._client = client

    def find(self, prediction_id: int) -> StartingPoint | None:
        """Returns a prediction, None if it is gone.

        Raises:
            LabelStudioError: Label Studio cannot be asked.
        """
        found = fetch_prediction(self._client, prediction_id)
        return None if found is None else StartingPoint(found.id, found.version, found.result)


@dataclass(frozen=True)
class Derived:
    """What one derivation did.

    Attributes:
        changed: tasks whose correction is new or different.
        dropped: tasks that have no annotation any more.
        waiting: tasks whose starting point could not be fetched; tried again next time.
    """

    changed: int = 0
    dropped: int = 0
    waiting: int = 0


@dataclass(frozen=True, eq=False)
class _Voice:
    """One annotation with the event that holds it, and the head that names the event."""

    annotation: Annotation
    event: Event
    head: LiveHead

    @property
    def moment_us(self) -> int:
        """When it was made: no clock but this machine's can put it after it was received."""
        # What was found in Label Studio may have been made long before.
        received_us = self.head.received_us
        return min(self.head.version_us, received_us) if self.head.is_observed else received_us


@dataclass(frozen=True)
class _Heads:
    """The newest states of a task's annotations, deleted ones included."""

    all: tuple[LiveHead, ...]

    @property
    def live(self) -> tuple[LiveHead, ...]:
        """Those that are still there."""
        return tuple(head for head in self.all if not head.is_deleted)

    @property
    def seq(self) -> int:
        """Place of the last news: a deletion may bring an older annotation to count again."""
        return max(head.seq for head in self.all)


class Derivation:
    """Keeps the corrections of a store up to date.

    Args:
        repository: where they are kept.
        source: Label Studio's predictions, or None without an API key: kept answers stand in.
    """

    def __init__(
        self, repository: CorrectionRepository, source: PredictionSource | None = None
    ) -> None:
        self._repository = repository
        self._source = source
        self._refusals = 0

    def derive(
        self, project_id: int, *, on_progress: Callable[[int, int], None] | None = None
    ) -> Derived:
        """Derives every task of a project that has news.

        Args:
            project_id: whose corrections.
            on_progress: called with the number of finished tasks and of all.

        Raises:
            StoreError: the database cannot be read or written.
            BusyError: the database is too slow; what is done stays done.
        """
        self._refusals = 0
        # Read first: what somebody else derives meanwhile must not look as if it had no annotation.
        known = self._repository.states(project_id)
        tasks = self._live_tasks(project_id)
        news = {
            task_id: heads
            for task_id, heads in tasks.items()
            if known.get(task_id) != state_of(heads.all)
        }
        waiting = 0
        for done, (task_id, heads) in enumerate(news.items(), start=1):
            try:
                row, found = self._look(project_id, task_id, heads)
                self._repository.put(project_id, row, found)
            except LabelStudioError as error:
                waiting += 1
                _log.warning(
                    "correction of task %s waits: %s",
                    task_id,
                    error,
                    extra={"event": "correction_waits", "project": project_id},
                )
            if on_progress is not None:
                on_progress(done, len(news))
        gone = known.keys() - tasks.keys()
        self._repository.drop(project_id, gone)
        return Derived(len(news) - waiting, len(gone), waiting)

    def rebuild(
        self, project_id: int, *, on_progress: Callable[[int, int], None] | None = None
    ) -> Derived:
        """Forgets everything derived about a project and derives it again from the journal.

        Raises:
            StoreError: the database cannot be read or written.
            BusyError: the database is too slow; deriving again goes on.
        """
        self._repository.forget(project_id)
        return self.derive(project_id, on_progress=on_progress)

    def load(self, project_id: int, task_id: int) -> Correction | None:
        """Returns the correction of one task with its masks, or None if it has none.

        Raises:
            StoreError: the database cannot be read.
            LabelStudioError: what it started from is not known yet and cannot be fetched.
        """
        heads = self._live_tasks(project_id, task_id).get(task_id)
        return None if heads is None else self._look(project_id, task_id, heads)[1]

    def _live_tasks(self, project_id: int, only: int | None = None) -> Mapping[int, _Heads]:
        """Tasks with annotations that are still there."""
        tasks: dict[int, list[LiveHead]] = {}
        for head in self._repository.heads(project_id, task_id=only):
            if head.task_id is not None:
                tasks.setdefault(head.task_id, []).append(head)
        found = {task_id: _Heads(tuple(heads)) for task_id, heads in tasks.items()}
        return {task_id: heads for task_id, heads in found.items() if heads.live}

    def _look(
        self, project_id: int, task_id: int, heads: _Heads
    ) -> tuple[TaskRow, Correction | None]:
        # Deleted ones too: the place of the last news depends on them.
        state, seq = state_of(heads.all), heads.seq
        try:
            voices = {voice.annotation.id: voice for voice in self._read(heads.live)}
            annotations = _in_order_of_receipt(tuple(voices.values()))
            chosen = choose(annotations)
            if chosen is None:
                problem = None if all(one.was_seen for one in annotations) else NOT_SEEN
                return TaskRow(task_id, state, seq, Standing.SKIPPED, problem=problem), None
            found = self._compare(project_id, voices[chosen.id], annotations)
        except RequestError as error:
            # A body that cannot be read today cannot be read tomorrow.
            _log.warning(
                "correction of task %s: %s",
                task_id,
                error,
                extra={"event": "correction_unreadable", "project": project_id},
            )
            return TaskRow(task_id, state, seq, Standing.UNREADABLE, problem=str(error)), None
        return _row(task_id, state, seq, found), found

    def _read(self, heads: Iterable[LiveHead]) -> Iterable[_Voice]:
        for head in heads:
            stored = self._repository.store.find_event(head.key)
            if stored is not None:
                found = read_annotation(stored.event)
                made_at = min(found.updated_at, stored.received_at)  # by a clock that may be ahead
                yield _Voice(replace(found, updated_at=made_at), stored.event, head)

    def _compare(
        self, project_id: int, voice: _Voice, annotations: Sequence[Annotation]
    ) -> Correction:
        annotation = voice.annotation
        start = self._starting_point(project_id, voice)
        schema, task = read_schema(voice.event), read_task(voice.event)
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

    def _starting_point(self, project_id: int, voice: _Voice) -> StartingPoint:
        annotation = voice.annotation
        known = self._repository.starting_point(project_id, annotation.id)
        if known is not None:
            return known
        start = self._fetch(annotation) or self._guess(project_id, voice) or StartingPoint()
        self._repository.keep_starting_point(project_id, annotation.id, start)
        return self._repository.starting_point(project_id, annotation.id) or start

    def _fetch(self, annotation: Annotation) -> StartingPoint | None:
        if self._source is None or annotation.parent_prediction_id is None:
            return None
        if self._refusals >= _MOST_REFUSALS:
            # Hundreds of answers that do not come would hold up every other project.
            raise LabelStudioError("Label Studio did not answer; it is asked again later")
        try:
            found = self._source.find(annotation.parent_prediction_id)
        except LabelStudioError:
            self._refusals += 1
            raise
        self._refusals = 0
        return found

    def _guess(self, project_id: int, voice: _Voice) -> StartingPoint | None:
        """The kept answer of the task that the annotation's regions come from."""
        annotation, schema = voice.annotation, read_schema(voice.event)
        best, most = None, (0, 0)
        # Newest first: of answers that fit equally well the newest was the one shown.
        for answer in self._repository.kept_answers(project_id, annotation.task_id):
            try:
                regions = parse_regions(answer.regions or b"[]", schema)
            except RequestError:
                continue
            fit = _fit(regions, annotation.regions)
            if fit > most:
                best, most = answer, fit
            if best is None and annotation.parent_prediction_id is not None:
                best = answer  # everything that was predicted may have been removed
        return best


def _in_order_of_receipt(voices: Sequence[_Voice]) -> list[Annotation]:
    """Annotations whose times are those of their receipt, so that the newest can be chosen.

    As in the journal, Label Studio's times only order what may have been overtaken on the way.
    """
    ordered: list[_Voice] = []
    for voice in sorted(voices, key=lambda one: (one.moment_us, one.annotation.id)):
        place = len(ordered)
        while place and _was_overtaken(voice, ordered[place - 1]):
            place -= 1
        ordered.insert(place, voice)
    ranked, last_us = [], 0
    for voice in ordered:
        last_us = max(voice.moment_us, last_us + 1)
        ranked.append(replace(voice.annotation, updated_at=from_us(last_us)))
    return ranked


def _was_overtaken(later: _Voice, sooner: _Voice) -> bool:
    """Whether what was received later may have been made before what was received sooner."""
    if later.head.is_observed or sooner.head.is_observed:
        return False
    apart_us = sooner.head.version_us - later.head.version_us
    is_race = later.moment_us - sooner.moment_us <= RACE_US and 0 <= apart_us <= RACE_US
    return is_race and (apart_us > 0 or later.annotation.id < sooner.annotation.id)


def _fit(predicted: Sequence[Region], annotated: Sequence[Region]) -> tuple[int, int]:
    """How many regions of an answer an annotation still has: as they were, and at all.

    Equal names give equal ids whatever the version, so an untouched mask tells more than an id.
    """
    ours = {(region.image_index, region.id): region for region in predicted}
    pairs = [
        (ours[place], region)
        for region in annotated
        if (place := (region.image_index, region.id)) in ours
    ]
    untouched = sum(
        a.encoding == b.encoding for a, b in pairs if b.origin is not RegionOrigin.MANUAL
    )
    return untouched, len(pairs)


def _row(task_id: int, state: str, seq: int, found: Correction) -> TaskRow:
    agreement = found.agreement
    problem = f"drawn, but no masks, or ones that cannot be decoded: {', '.join(found.unreadable)}"
    return TaskRow(
        task_id,
        state,
        seq,
        Standing.CORRECTED,
        problem=problem if found.unreadable else None,
        annotation_id=found.annotation_id,
        updated_at=found.updated_at,
        version=found.version,
        is_ground_truth=found.is_ground_truth,
        annotators=1 if agreement is None else agreement.annotators,
        agreement=None if agreement is None else agreement.mean_iou,
        tally=found.tally,
    )
