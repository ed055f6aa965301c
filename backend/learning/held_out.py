"""Which tasks are only ever measured on: a share of what a project corrects after its first tasks.

At first every correction is worth more as a lesson than as a test; whether corrections can be
learned is then asked of each of them, left out in turn. Pure: values in, values out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from backend.learning.rows import Standing, TaskRow

HELD_OUT_SHARE = 0.2
LEARNED_FIRST = 24
"""Corrected tasks of a project that are all learned from; of later ones a share is kept."""


def held_out_tasks(project_id: int, rows: Iterable[TaskRow]) -> frozenset[int]:
    """Returns the ids of the tasks that must never be trained on.

    A task keeps its side as long as the annotations made before it stay: their ids grow.

    Args:
        project_id: Label Studio's id.
        rows: all tasks of the project.
    """
    corrected = [row for row in rows if row.standing is Standing.CORRECTED]
    corrected.sort(key=lambda row: (row.annotation_id or 0, row.task_id))
    later = corrected[LEARNED_FIRST:]
    return frozenset(row.task_id for row in later if is_kept(project_id, row.task_id))


def is_kept(project_id: int, task_id: int, *, share: float = HELD_OUT_SHARE) -> bool:
    """Whether a later task is kept for testing; depends on nothing but the two ids."""
    digest = hashlib.sha256(f"held out/{project_id}/{task_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
