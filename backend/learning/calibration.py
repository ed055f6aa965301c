"""A project's calibration: what its annotators kept and rejected, against the scores they saw.

Scores in the history were bent by the calibration of the version that gave them; that is undone
first, so that every fit starts from the same scores and none builds on another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from sqlalchemy import select

from backend.learning.correction import RegionChange
from backend.storage.store import Store
from backend.storage.tables import correction, region_outcome
from backend.storage.versions import Versions
from calico_model.errors import CheckpointError
from calico_model.evaluation.metrics import IOU_THRESHOLD
from calico_model.inference.confidence import Calibration, fit_calibration, read_calibration

_MOST = 2000  # regions; older ones were judged of versions long gone
_WRONG = RegionChange.REMOVED | RegionChange.RELABELLED | RegionChange.KIND_CHANGED


@dataclass(frozen=True)
class JudgedRegion:
    """One predicted region that an annotator saw.

    Attributes:
        version: what predicted it.
        score: that was shown.
        is_right: it was kept with its name and kind, and an IoU of at least 0.5.
    """

    version: str
    score: float
    is_right: bool


def judged_regions(store: Store, project_id: int) -> tuple[JudgedRegion, ...]:
    """The newest regions of a project that were predicted with a score, newest first."""
    query = (
        select(
            correction.c.version,
            region_outcome.c.score,
            region_outcome.c.change,
            region_outcome.c.iou,
        )
        .join(
            correction,
            (correction.c.project_id == region_outcome.c.project_id)
            & (correction.c.task_id == region_outcome.c.task_id),
        )
        .where(
            region_outcome.c.project_id == project_id,
            region_outcome.c.score.is_not(None),
            correction.c.version.is_not(None),
        )
        .order_by(correction.c.seq.desc())
        .limit(_MOST)
    )
    with store.read() as connection:
        return tuple(
            JudgedRegion(row.version, row.score, _is_right(RegionChange(row.change), row.iou))
            for row in connection.execute(query)
        )


def calibrate_project(versions: Versions, judged: Iterable[JudgedRegion]) -> Calibration:
    """Fits a project's calibration; the identity without any history."""
    regions = tuple(judged)
    known = {one.version for one in regions}
    bent = {version: _calibration_of(versions, version) for version in known}
    return fit_calibration(
        np.array([bent[one.version].undo(one.score) for one in regions]),
        np.array([one.is_right for one in regions], dtype=bool),
    )


def _is_right(change: RegionChange, iou: float | None) -> bool:
    if change & _WRONG:
        return False
    return RegionChange.RESHAPED not in change or (iou or 0.0) >= IOU_THRESHOLD


def _calibration_of(versions: Versions, version_id: str) -> Calibration:
    """What bent the scores of a version; nothing did for the base, or is known of swept files."""
    version = versions.find(version_id)
    if version is None:
        return Calibration()
    try:
        return read_calibration(versions.path(version))
    except CheckpointError:
        return Calibration()
