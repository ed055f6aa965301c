"""A project's score calibration, fitted to the regions that its annotators accepted and rejected.

Scores in the history were changed by the calibration of their version. That change is undone first,
so that every fit starts from uncalibrated scores.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from sqlalchemy import select

from backend.errors import DamagedFilesError, FilesUnavailableError
from backend.learning.correction import RegionChange
from backend.storage.store import Store
from backend.storage.tables import correction, region_outcome
from backend.storage.versions import Versions
from calico_model.errors import CheckpointError
from calico_model.evaluation.metrics import IOU_THRESHOLD
from calico_model.inference.confidence import Calibration, fit_calibration, read_calibration

_MOST_REGIONS = 2000  # older regions belong to versions that are not served any more
_WRONG = RegionChange.REMOVED | RegionChange.RELABELLED
"""Another kind is not wrong here: the region has its name and its mask, and saved its clicks."""


@dataclass(frozen=True)
class JudgedRegion:
    """One predicted region that an annotator saw.

    Attributes:
        version: the version that predicted it.
        score: the score that the annotator saw, in [0, 1].
        is_right: the annotator kept its name, and the masks have an IoU of at least 0.5.
    """

    version: str
    score: float
    is_right: bool


def judged_regions(store: Store, project_id: int) -> tuple[JudgedRegion, ...]:
    """Returns the newest regions of a project that were predicted with a score, newest first."""
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
        .limit(_MOST_REGIONS)
    )
    with store.read() as connection:
        return tuple(
            JudgedRegion(row.version, row.score, _is_right(RegionChange(row.change), row.iou))
            for row in connection.execute(query)
        )


def calibrate_project(versions: Versions, judged: Iterable[JudgedRegion]) -> Calibration:
    """Fits a project's calibration; the identity without history."""
    regions = tuple(judged)
    names = {region.version for region in regions}
    calibrations = {name: _calibration_of(versions, name) for name in names}
    return fit_calibration(
        np.array([calibrations[region.version].undo(region.score) for region in regions]),
        np.array([region.is_right for region in regions], dtype=bool),
    )


def _is_right(change: RegionChange, iou: float | None) -> bool:
    if change & _WRONG:
        return False
    return RegionChange.RESHAPED not in change or (iou or 0.0) >= IOU_THRESHOLD


def _calibration_of(versions: Versions, version_id: str) -> Calibration:
    """Calibration of a version; the identity for the base and for versions without files."""
    version = versions.find(version_id)
    if version is None:
        return Calibration()
    try:
        return read_calibration(versions.verify(version))
    except (CheckpointError, DamagedFilesError, FilesUnavailableError):
        return Calibration()
