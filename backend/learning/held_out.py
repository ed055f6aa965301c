"""Which tasks are only ever measured on: a fixed share of a project that grows with it."""

from __future__ import annotations

import hashlib

HELD_OUT_SHARE = 0.2


def is_held_out(project_id: int, task_id: int, *, share: float = HELD_OUT_SHARE) -> bool:
    """Whether a task must never be trained on.

    Depends on nothing but the two ids, so a task keeps its side for good, whatever happens to the
    database; a larger share holds out every task that a smaller one does.
    """
    digest = hashlib.sha256(f"held out/{project_id}/{task_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
