"""State of learning per project, read-only: behind `calico status`, /status and the pages at /ui.

The database computes the sums, so that a project of a hundred thousand tasks is shown as quickly as
a project of ten; lists have a limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, select

from backend.clock import now_us
from backend.learning.doubts import is_too_much
from backend.learning.explanation import (
    Explanation,
    explain_running,
    explain_state,
    explain_waiting,
)
from backend.learning.label_quality import (
    LabelQuality,
    LabelSets,
    corrected_labels,
    lost_labels,
    measured_points,
    read_label_quality,
)
from backend.learning.outlook import Outlook, estimate
from backend.learning.repository import CorrectionRepository
from backend.learning.rows import NOT_SEEN, Standing
from backend.learning.schedule import (
    AcceptancePolicy,
    Cause,
    RunState,
    SchedulePolicy,
    held_out_ids,
    still_rises,
)
from backend.learning.source_standing import SourceStanding, read_source_standings
from backend.learning.training_runs import RunRepository, TrainingRun
from backend.storage.journal import AHEAD_US
from backend.storage.source_trust import SourceAnswerStore
from backend.storage.store import Store
from backend.storage.tables import ann_head, correction
from backend.storage.versions import AdapterVersion, Versions

_COLUMNS = correction.c
_WORST_AMONG = 200
_RUNS_LOOKED_AT = 10


@dataclass(frozen=True)
class ProjectStanding:
    """State of learning in one project.

    Attributes:
        project_id: Label Studio's project id.
        version: the version that predicts now, None for the base.
        corrections: number of corrected tasks.
        new: corrected tasks that the version has not learned and that training may use.
        held_out: corrected tasks that are only measured on.
        skipped: tasks that annotators skipped.
        acceptance: share in [0, 1] of predicted regions that were accepted unchanged, over the
            version's newest tasks; None without any.
        acceptance_tasks: number of these tasks.
        run: the training under way, else the last one, or None.
        is_rising: the trainer may refine the version further.
        held_back: annotations that Label Studio no longer shows, or shows in an older state; they
            stay valid until that is confirmed.
        needs_word: `held_back` is so large that a person has to approve the deletions.
        stamped_ahead: annotations whose time, by Label Studio's clock, is in the future.
    """

    project_id: int
    version: AdapterVersion | None
    corrections: int
    new: int
    held_out: int
    skipped: int
    acceptance: float | None
    acceptance_tasks: int
    run: TrainingRun | None
    is_rising: bool = False
    held_back: int = 0
    needs_word: bool = False
    stamped_ahead: int = 0


@dataclass(frozen=True)
class VersionQuality:
    """Quality of one version's predictions, measured by their corrections.

    Attributes:
        version: name of the version in its predictions.
        tasks: number of corrected tasks that started from it.
        iou: mean IoU of predicted and corrected masks in [0, 1]; an added or removed region counts
            0.
        acceptance: share in [0, 1] of predicted regions that were accepted unchanged.
        edits: mean number of changed regions per task.
    """

    version: str
    tasks: int
    iou: float
    acceptance: float
    edits: float


@dataclass(frozen=True)
class CorrectedGroup:
    """One corrected task with its number of changed regions.

    Attributes:
        task_id: Label Studio's task id.
        version: the version that predicted it.
        iou: as in `VersionQuality`.
        predicted, added, removed, reshaped, renamed: numbers of regions; a region with another name
            or kind is renamed.
    """

    task_id: int
    version: str
    iou: float
    predicted: int
    added: int
    removed: int
    reshaped: int
    renamed: int


class Overview:
    """Reads the state of learning. Threads may share it.

    Args:
        store: the database.
        versions: of all projects.
        start_from: project whose version a project without a version of its own starts from, or
            None.
    """

    def __init__(self, store: Store, versions: Versions, *, start_from: int | None = None) -> None:
        self._store, self._start_from = store, start_from
        self.versions = versions
        self._repository = CorrectionRepository(store)
        self._runs = RunRepository(store)
        self._label_sets = LabelSets(store)
        self._answers = SourceAnswerStore(store)

    def projects(self) -> tuple[int, ...]:
        """Ids of all projects that ever sent an event or asked for a prediction."""
        return self._repository.projects()

    def standing(self, project_id: int) -> ProjectStanding:
        """Returns the state of learning in one project."""
        version = self.versions.served(project_id, start_from=self._start_from)
        is_own = version is not None and version.project_id == project_id
        learned = version.upto_seq if version is not None and is_own else -1
        corrected = self._corrected(project_id)
        held_out = held_out_ids(project_id, ((one, task_id) for one, task_id, _ in corrected))
        accepted, predicted, tasks = self._acceptance(project_id, version)
        runs = self._runs.runs(project_id, limit=1)
        held_back, live = len(self._repository.doubts(project_id)), self._live(project_id)
        return ProjectStanding(
            project_id,
            version,
            corrections=len(corrected),
            new=sum(seq > learned and task_id not in held_out for _, task_id, seq in corrected),
            held_out=len(held_out),
            skipped=self._skipped(project_id),
            acceptance=accepted / predicted if predicted else None,
            acceptance_tasks=tasks,
            run=runs[0] if runs else None,
            is_rising=still_rises(SchedulePolicy(), self._runs.past(project_id)),
            held_back=held_back,
            needs_word=is_too_much(held_back, live),
            stamped_ahead=self._live(project_id, after_us=now_us() + AHEAD_US),
        )

    def learning_curve(self, project_id: int, *, limit: int = 100) -> tuple[VersionQuality, ...]:
        """Returns the quality of the newest `limit` versions, oldest first."""
        tasks, predicted = func.count(), func.sum(_COLUMNS.predicted)
        query = (
            select(
                _COLUMNS.version,
                tasks,
                func.sum(_iou_sum(_COLUMNS)) / func.sum(_COLUMNS.predicted + _COLUMNS.added),
                func.sum(_COLUMNS.accepted) * 1.0 / predicted,
                func.sum(_edits()) * 1.0 / tasks,
            )
            .where(*_with_prediction(project_id))
            .group_by(_COLUMNS.version)
            .order_by(func.min(_COLUMNS.seq).desc())
            .limit(limit)
        )
        with self._store.read() as connection:
            # PostgreSQL returns decimals.
            qualities = [
                VersionQuality(version, tasks, *map(float, means))
                for version, tasks, *means in connection.execute(query)
            ]
        return tuple(reversed(qualities))

    def worst(self, project_id: int, *, limit: int = 6) -> tuple[CorrectedGroup, ...]:
        """Returns the `limit` worst predicted of the newest corrected tasks, worst first."""
        newest = (
            select(correction)
            .where(*_with_prediction(project_id))
            .order_by(_COLUMNS.seq.desc())
            .limit(_WORST_AMONG)
            .subquery()
        )
        columns = newest.c
        iou = (_iou_sum(columns) / (columns.predicted + columns.added)).label("iou")
        query = (
            select(
                columns.task_id,
                columns.version,
                iou,
                columns.predicted,
                columns.added,
                columns.removed,
                columns.reshaped,
                columns.relabelled + columns.kind_changed,
            )
            .order_by(iou, columns.task_id)
            .limit(limit)
        )
        with self._store.read() as connection:
            return tuple(CorrectedGroup(*row) for row in connection.execute(query))

    def labels(self, project_id: int) -> tuple[LabelQuality, ...]:
        """Returns what annotators did to each label in the newest corrected tasks, worst first."""
        return read_label_quality(self._store, project_id, self._label_sets.of(project_id))

    def corrected_labels(self, project_id: int) -> dict[str, int]:
        """Returns the labels of the newest corrected tasks, and in how many tasks each is."""
        return corrected_labels(self._store, project_id)

    def lost_labels(self, project_id: int) -> dict[str, int]:
        """Returns those of `corrected_labels` that the newest annotation's config has no more."""
        return lost_labels(self.corrected_labels(project_id), self._label_sets.of(project_id))

    def sources(self, project_id: int) -> tuple[SourceStanding, ...]:
        """Returns how far each source beside CALICO is believed about each label."""
        return read_source_standings(self._answers, project_id, self._label_sets.of(project_id))

    def outlook(self, standing: ProjectStanding) -> Outlook:
        """Returns how many more corrected groups a project needs until predictions are useful."""
        project_id = standing.project_id
        learned = {one.id: one.corrections for one in self.versions.all(project_id)}
        points = measured_points(self._store, project_id, learned)
        return estimate(points, standing.corrections)

    def explanation(self, standing: ProjectStanding) -> Explanation:
        """Says what annotators see after the last finished training, why, and what to do next.

        A refining run that brought nothing better is passed over: nobody asked for it.
        """
        project_id = standing.project_id
        finished = (
            run
            for run in self._runs.runs(project_id, limit=_RUNS_LOOKED_AT)
            if run.state is RunState.PUBLISHED
            or (run.state is not RunState.RUNNING and run.cause is not Cause.REFINE)
        )
        run = next(finished, None)
        adapter_id = None if run is None else run.adapter_id
        candidate = None if adapter_id is None else self.versions.find(adapter_id)
        explanation = explain_state(project_id, run, candidate, standing.version)
        now = standing.run
        if now is not None and now.state is RunState.RUNNING and now.cause is not Cause.REFINE:
            return explain_running(explanation, is_first=run is None)
        asked_us = self._runs.requested_us(project_id)
        if asked_us is None or not standing.new:
            return explanation
        if now is not None and now.began_at.timestamp() * 1e6 >= asked_us:
            return explanation
        return explain_waiting(explanation)

    def runs(self, project_id: int, *, limit: int = 10) -> tuple[TrainingRun, ...]:
        """Returns the training runs of a project, newest first."""
        return self._runs.runs(project_id, limit=limit)

    def _corrected(self, project_id: int) -> list[tuple[int, int, int]]:
        """Annotation id, task id and place in the journal of every corrected task."""
        query = select(_COLUMNS.annotation_id, _COLUMNS.task_id, _COLUMNS.seq).where(
            _COLUMNS.project_id == project_id, _COLUMNS.outcome == Standing.CORRECTED.value
        )
        with self._store.read() as connection:
            return [(one or 0, task_id, seq) for one, task_id, seq in connection.execute(query)]

    def _skipped(self, project_id: int) -> int:
        """Number of tasks that annotators skipped."""
        query = select(func.count()).where(
            _COLUMNS.project_id == project_id,
            _COLUMNS.outcome == Standing.SKIPPED.value,
            func.coalesce(_COLUMNS.problem, "") != NOT_SEEN,
        )
        with self._store.read() as connection:
            return int(connection.execute(query).scalar_one())

    def _live(self, project_id: int, *, after_us: int = -1) -> int:
        """Number of annotations that are not deleted and were changed after `after_us`."""
        columns = ann_head.c
        query = select(func.count()).where(
            columns.project_id == project_id,
            columns.deleted.is_(False),
            columns.version_us > after_us,
        )
        with self._store.read() as connection:
            return int(connection.execute(query).scalar_one())

    def _acceptance(self, project_id: int, version: AdapterVersion | None) -> tuple[int, int, int]:
        """Numbers of accepted regions, predicted regions and tasks, of a version's newest tasks."""
        is_predicted_by = (
            _COLUMNS.version.not_in(adapter.id for adapter in self.versions.all())
            if version is None
            else _COLUMNS.version == version.id
        )
        newest = (
            select(_COLUMNS.accepted, _COLUMNS.predicted)
            .where(*_with_prediction(project_id), is_predicted_by)
            .order_by(_COLUMNS.seq.desc())
            .limit(AcceptancePolicy().window)
            .subquery()
        )
        query = select(
            func.coalesce(func.sum(newest.c.accepted), 0),
            func.coalesce(func.sum(newest.c.predicted), 0),
            func.count(),
        )
        with self._store.read() as connection:
            accepted, predicted, tasks = connection.execute(query).one()
        return int(accepted), int(predicted), int(tasks)


def _with_prediction(project_id: int) -> tuple[ColumnElement[bool], ...]:
    """Corrected tasks that started from a prediction with regions."""
    return (
        _COLUMNS.project_id == project_id,
        _COLUMNS.outcome == Standing.CORRECTED.value,
        _COLUMNS.version.is_not(None),
        _COLUMNS.predicted > 0,
    )


def _iou_sum(columns: Any) -> ColumnElement[float]:
    """Sum of the IoU over the predicted regions of a task, from the columns of `correction`."""
    unchanged = columns.predicted - columns.removed - columns.reshaped
    iou_sum: ColumnElement[float] = unchanged + columns.reshaped_iou_sum
    return iou_sum


def _edits() -> ColumnElement[int]:
    """Number of changes that the annotator made to a task."""
    return (
        _COLUMNS.reshaped
        + _COLUMNS.relabelled
        + _COLUMNS.kind_changed
        + _COLUMNS.added
        + _COLUMNS.removed
    )
