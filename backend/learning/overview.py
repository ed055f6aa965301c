"""How learning stands, read-only: one query object behind `calico status` and the page at /ui.

Sums are taken by the database, so that a project of a hundred thousand tasks is as quick to look at
as one of ten; lists have a limit. Writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select

from backend.clock import now_us
from backend.learning.doubts import is_too_much
from backend.learning.repository import CorrectionRepository
from backend.learning.rows import Standing
from backend.learning.schedule import AcceptancePolicy, SchedulePolicy, held_out_tasks, still_rises
from backend.learning.training_runs import RunRepository, TrainingRun
from backend.storage.journal import AHEAD_US
from backend.storage.store import Store
from backend.storage.tables import ann_head, correction
from backend.storage.versions import AdapterVersion, Versions

_COLUMNS = correction.c
_WORST_AMONG = 200


@dataclass(frozen=True)
class ProjectStanding:
    """How learning stands in one project.

    Attributes:
        project_id: Label Studio's id.
        version: what answers now, None for the base.
        corrections: tasks that were corrected.
        new: of these, what the version has not learned from and training may use.
        held_out: of these, what is never trained on.
        skipped: tasks that annotators skipped.
        acceptance: share of regions left as they were, of the version's newest tasks, or None.
        acceptance_tasks: how many tasks that is.
        run: the training under way, else the last one, or None.
        is_rising: a better version may follow by itself.
        held_back: annotations that Label Studio no longer shows, or shows in an older state, and
            that count all the same until that is confirmed.
        needs_word: these are too many at once: a person has to say whether that is right.
        stamped_ahead: annotations that Label Studio's clock puts into the future.
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
    """How good one version's predictions were before anybody corrected them.

    Attributes:
        version: what they were stamped with.
        tasks: corrected tasks that started from it.
        iou: mean IoU of predicted and corrected masks; regions added or removed count 0.
        acceptance: share of predicted regions left as they were.
        edits: changes per task.
    """

    version: str
    tasks: int
    iou: float
    acceptance: float
    edits: float


@dataclass(frozen=True)
class CorrectedGroup:
    """One corrected task, and what had to be done to it.

    Attributes:
        task_id: Label Studio's id.
        version: what it started from.
        iou: as in `VersionQuality`.
        predicted, added, removed, reshaped, renamed: regions; what changed name or kind is renamed.
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
    """Reads how learning stands. Threads may share it.

    Args:
        store: the database.
        versions: of all projects.
        start_from: project whose version a project without one of its own begins with, or None.
    """

    def __init__(self, store: Store, versions: Versions, *, start_from: int | None = None) -> None:
        self._store, self._start_from = store, start_from
        self.versions = versions
        self._repository = CorrectionRepository(store)
        self._runs = RunRepository(store)

    def projects(self) -> tuple[int, ...]:
        """Every project that ever sent an event or asked for a prediction."""
        return self._repository.projects()

    def standing(self, project_id: int) -> ProjectStanding:
        """How learning stands in one project."""
        version = self.versions.served(project_id, start_from=self._start_from)
        is_own = version is not None and version.project_id == project_id
        learned = version.upto_seq if version is not None and is_own else -1
        rows = self._repository.tasks(project_id)
        corrected = [row for row in rows if row.standing is Standing.CORRECTED]
        held_out = held_out_tasks(project_id, rows)
        accepted, predicted, tasks = self._acceptance(project_id, version)
        runs = self._runs.runs(project_id, limit=1)
        held_back, live = len(self._repository.doubts(project_id)), self._live(project_id)
        return ProjectStanding(
            project_id,
            version,
            corrections=len(corrected),
            new=sum(row.seq > learned and row.task_id not in held_out for row in corrected),
            held_out=len(held_out),
            skipped=sum(row.standing is Standing.SKIPPED and not row.is_unseen for row in rows),
            acceptance=accepted / predicted if predicted else None,
            acceptance_tasks=tasks,
            run=runs[0] if runs else None,
            is_rising=still_rises(SchedulePolicy(), self._runs.past(project_id)),
            held_back=held_back,
            needs_word=is_too_much(held_back, live),
            stamped_ahead=self._live(project_id, after_us=now_us() + AHEAD_US),
        )

    def learning_curve(self, project_id: int, *, limit: int = 100) -> tuple[VersionQuality, ...]:
        """Quality of each version's predictions, oldest first; the newest `limit` versions."""
        tasks, predicted = func.count(), func.sum(_COLUMNS.predicted)
        query = (
            select(
                _COLUMNS.version,
                tasks,
                func.sum(_kept()) / func.sum(_COLUMNS.predicted + _COLUMNS.added),
                func.sum(_COLUMNS.accepted) * 1.0 / predicted,
                func.sum(_edits()) * 1.0 / tasks,
            )
            .where(*_counts(project_id))
            .group_by(_COLUMNS.version)
            .order_by(func.min(_COLUMNS.seq).desc())
            .limit(limit)
        )
        with self._store.read() as connection:
            # PostgreSQL averages in decimals.
            found = [
                VersionQuality(version, tasks, *map(float, means))
                for version, tasks, *means in connection.execute(query)
            ]
        return tuple(reversed(found))

    def worst(self, project_id: int, *, limit: int = 6) -> tuple[CorrectedGroup, ...]:
        """Of the newest corrected tasks, those whose prediction was worst, worst first."""
        newest = (
            select(correction)
            .where(*_counts(project_id))
            .order_by(_COLUMNS.seq.desc())
            .limit(_WORST_AMONG)
            .subquery()
        )
        columns = newest.c
        kept = columns.predicted - columns.removed - columns.reshaped + columns.reshaped_iou_sum
        iou = (kept / (columns.predicted + columns.added)).label("iou")
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

    def runs(self, project_id: int, *, limit: int = 10) -> tuple[TrainingRun, ...]:
        """Trainings of a project, newest first."""
        return self._runs.runs(project_id, limit=limit)

    def _live(self, project_id: int, *, after_us: int = -1) -> int:
        """Annotations that are there and stamped after a moment."""
        columns = ann_head.c
        query = select(func.count()).where(
            columns.project_id == project_id,
            columns.deleted.is_(False),
            columns.version_us > after_us,
        )
        with self._store.read() as connection:
            return int(connection.execute(query).scalar_one())

    def _acceptance(self, project_id: int, version: AdapterVersion | None) -> tuple[int, int, int]:
        """Accepted and predicted regions of the newest tasks of a version, and those tasks."""
        mine = (
            _COLUMNS.version.not_in(one.id for one in self.versions.all())
            if version is None
            else _COLUMNS.version == version.id
        )
        newest = (
            select(_COLUMNS.accepted, _COLUMNS.predicted)
            .where(*_counts(project_id), mine)
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


def _counts(project_id: int) -> tuple[ColumnElement[bool], ...]:
    """Corrected tasks that started from a prediction with regions."""
    return (
        _COLUMNS.project_id == project_id,
        _COLUMNS.outcome == Standing.CORRECTED.value,
        _COLUMNS.version.is_not(None),
        _COLUMNS.predicted > 0,
    )


def _kept() -> ColumnElement[float]:
    """Sum of IoU over the predicted regions of a task."""
    return _COLUMNS.predicted - _COLUMNS.removed - _COLUMNS.reshaped + _COLUMNS.reshaped_iou_sum


def _edits() -> ColumnElement[int]:
    """Changes an annotator made to a task."""
    return (
        _COLUMNS.reshaped
        + _COLUMNS.relabelled
        + _COLUMNS.kind_changed
        + _COLUMNS.added
        + _COLUMNS.removed
    )
