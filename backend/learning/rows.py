"""Rows of the learning tables as values, and corrections as rows.

Knows no database: repository.py reads and writes the rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from backend.clock import from_us, to_us
from backend.learning.correction import (
    DIFF_VERSION,
    Correction,
    RegionChange,
    RegionOutcome,
    RegionTally,
)
from backend.types import Region

NOT_SEEN = "copied from predictions in bulk; counts once a person submits it"
_TALLY = tuple(RegionTally.__dataclass_fields__)


@dataclass(frozen=True)
class LiveHead:
    """The newest state of one annotation, with its place in the journal.

    Attributes:
        annotation_id: Label Studio's annotation id.
        task_id: its task, or None if no event named it.
        key: key of the event that contains the state.
        is_deleted: whether the annotation was deleted, alone or with its task.
        version_us: time of its last change, by Label Studio's clock.
        seq: place of that event in the journal; of the repeated one if it repeats another.
        received_us: when that event was journalled.
        is_observed: whether the state came from Label Studio's API and not from an event.
        repeats: key of the earlier state that this one says again, with a label renamed; or None.
        made_us: when the repeated state was changed, by Label Studio's clock, and when it was
            journalled; None unless it repeats another.
    """

    annotation_id: int
    task_id: int | None
    key: str
    is_deleted: bool
    version_us: int
    seq: int
    received_us: int = 0
    is_observed: bool = False
    repeats: str | None = None
    made_us: tuple[int, int] | None = None

    @property
    def changed_us(self) -> int:
        """When a person last changed the annotation, by Label Studio's clock."""
        return self.version_us if self.made_us is None else self.made_us[0]

    @property
    def journalled_us(self) -> int:
        """When that change was journalled."""
        return self.received_us if self.made_us is None else self.made_us[1]


@dataclass(frozen=True)
class Doubt:
    """An annotation whose state in Label Studio's API differs from its state in the journal.

    Attributes:
        annotation_id: Label Studio's annotation id.
        task_id: its task.
        head_key: key of the state in the journal.
        seen: key of the older state that Label Studio shows; "" if the annotation is missing.
        first_seen_us: since when every comparison has shown this difference.
    """

    annotation_id: int
    task_id: int
    head_key: str
    seen: str
    first_seen_us: int


@dataclass(frozen=True)
class StartingPoint:
    """The prediction an annotation started from; version and regions are None without one.

    Attributes:
        prediction_id: Label Studio's id, or None if it was found among the kept answers.
        version: the adapter version that made the prediction.
        regions: JSON list of results.
    """

    prediction_id: int | None = None
    version: str | None = None
    regions: bytes | None = None


class Standing(StrEnum):
    """State of a task with annotations."""

    CORRECTED = "corrected"
    SKIPPED = "skipped"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class TaskRow:
    """The derived state of one task.

    Attributes:
        task_id: Label Studio's id.
        state: `state_of` the heads it was derived from.
        seq: place in the journal of the task's newest event, deletions of annotations included.
        standing: whether the task was corrected, only skipped, or cannot be read.
        problem: why it cannot be read, or NOT_SEEN if no person has looked at it yet, or None.
        annotation_id: the valid annotation, or None.
        updated_at: UTC time of its last change, or None.
        version: adapter version it started from, or None.
        is_ground_truth: the annotation is marked as ground truth.
        annotators: number of annotators of the task.
        agreement: matched mean IoU with the other annotators, or None.
        tally: outcomes of its regions.
    """

    task_id: int
    state: str
    seq: int
    standing: Standing
    problem: str | None = None
    annotation_id: int | None = None
    updated_at: datetime | None = None
    version: str | None = None
    is_ground_truth: bool = False
    annotators: int = 0
    agreement: float | None = None
    tally: RegionTally = RegionTally()

    @property
    def is_unseen(self) -> bool:
        """Whether all annotations were copied in bulk and no person has looked at them."""
        return self.standing is Standing.SKIPPED and self.problem == NOT_SEEN


@dataclass(frozen=True)
class OutcomeRow:
    """Outcome of one region without its masks; fields as in `RegionOutcome`."""

    task_id: int
    image_index: int
    region_id: str
    change: RegionChange
    iou: float | None
    boundary_f: float | None
    boundary_px: float | None
    score: float | None
    kind_before: str | None
    kind_after: str | None
    label_before: str | None
    label_after: str | None
    replaced_by: str | None


@dataclass(frozen=True)
class Cursor:
    """How far a project was compared with Label Studio; UTC times.

    Attributes:
        updated_at: newest change of a compared task, by Label Studio's clock.
        last_ok: when the last comparison succeeded.
    """

    updated_at: datetime
    last_ok: datetime


def state_of(heads: Iterable[LiveHead]) -> str:
    """Returns a hash of a task's annotations, deleted ones included: equal hash, equal rows."""
    digest = hashlib.sha256(f"{DIFF_VERSION}\n".encode())
    for head in sorted(heads, key=lambda head: head.annotation_id):
        repeats = "" if head.repeats is None else f" repeats {head.repeats}"
        digest.update(f"{head.annotation_id} {head.key}{repeats}\n".encode())
    return digest.hexdigest()


def task_values(project_id: int, row: TaskRow, correction: Correction | None) -> dict[str, object]:
    """Returns the columns of one row of `correction`."""
    return {
        "project_id": project_id,
        "task_id": row.task_id,
        "state": row.state,
        "seq": row.seq,
        "outcome": row.standing.value,
        "problem": clean(row.problem),
        "annotation_id": row.annotation_id,
        "annotator_id": None if correction is None else correction.annotator_id,
        "updated_at_us": None if row.updated_at is None else to_us(row.updated_at),
        "version": clean(row.version),
        "is_ground_truth": row.is_ground_truth,
        "annotators": row.annotators,
        "agreement": row.agreement,
    } | dict(zip(_TALLY, row.tally.values, strict=True))


def task_row(row: Mapping[Any, Any]) -> TaskRow:
    """Reads one row of `correction`."""
    updated_us = row["updated_at_us"]
    return TaskRow(
        task_id=row["task_id"],
        state=row["state"],
        seq=row["seq"],
        standing=Standing(row["outcome"]),
        problem=row["problem"],
        annotation_id=row["annotation_id"],
        updated_at=None if updated_us is None else from_us(updated_us),
        version=row["version"],
        is_ground_truth=row["is_ground_truth"],
        annotators=row["annotators"],
        agreement=row["agreement"],
        tally=RegionTally(*(row[name] for name in _TALLY)),
    )


def outcome_values(project_id: int, task_id: int, outcome: RegionOutcome) -> dict[str, object]:
    """Returns the columns of one row of `region_outcome`."""
    before, after, boundary = outcome.before, outcome.after, outcome.boundary
    return {
        "project_id": project_id,
        "task_id": task_id,
        "image_index": outcome.region.image_index,
        "region_id": clean(outcome.region.id),
        "change": outcome.change.value,
        "iou": outcome.iou,
        "boundary_f": None if boundary is None else boundary.f_score,
        "boundary_px": None if boundary is None else boundary.distance_px,
        "score": None if before is None else before.score,
        "kind_before": None if before is None else before.kind,
        "kind_after": None if after is None else after.kind,
        "label_before": None if before is None else _labels(before),
        "label_after": None if after is None else _labels(after),
        "replaced_by": clean(outcome.replaced_by),
    }


def _labels(region: Region) -> str | None:
    """All labels of a region, joined with commas; None without labels."""
    return clean(", ".join(region.labels)) if region.labels else None


def outcome_row(row: Mapping[Any, Any]) -> OutcomeRow:
    """Reads one row of `region_outcome`."""
    values = {name: row[name] for name in OutcomeRow.__dataclass_fields__}
    return OutcomeRow(**values | {"change": RegionChange(row["change"])})


def clean(text: str | None) -> str | None:
    """Returns the text without NUL characters, which PostgreSQL cannot store."""
    return None if text is None else text.replace("\0", "")
