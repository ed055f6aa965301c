"""How the tasks of a project look, kept so that the next version need not look again."""

from __future__ import annotations

import numpy as np
from sqlalchemy import Connection, select

from backend.clock import now_us
from backend.storage.store import Store
from backend.storage.tables import descriptor
from calico_model.types import Vector

_TIMEOUT_S = 30.0
_MOST = 50_000  # of one project; neighbours of more are not worth the memory


class Descriptors:
    """Descriptors of one store. Threads may share it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def load(self, project_id: int, base: str) -> dict[int, Vector]:
        """By task, in the order they were kept, those of one base's encoder."""
        columns = descriptor.c
        query = (
            select(columns.task_id, columns.vector)
            .where(columns.project_id == project_id, columns.base == base)
            .order_by(columns.kept_at_us, columns.task_id)
            .limit(_MOST)
        )
        with self._store.read() as connection:
            return {
                row.task_id: np.frombuffer(row.vector, np.float32)
                for row in connection.execute(query)
            }

    def keep(self, project_id: int, task_id: int, base: str, vector: Vector) -> None:
        """Keeps one, in place of an older one of the task."""
        row = self._store.insert(descriptor).values(
            project_id=project_id,
            task_id=task_id,
            base=base,
            vector=vector.astype(np.float32).tobytes(),
            kept_at_us=now_us(),
        )
        newest = {name: row.excluded[name] for name in ("base", "vector", "kept_at_us")}
        put = row.on_conflict_do_update(index_elements=["project_id", "task_id"], set_=newest)

        def change(connection: Connection) -> None:
            connection.execute(put)

        self._store.write(change, timeout_s=_TIMEOUT_S)
