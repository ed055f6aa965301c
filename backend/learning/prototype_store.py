"""Embeddings of a project's accepted regions by label, kept beside its annotations.

One row per annotation and weights, derived from the journal: rows of annotations that changed, were
deleted or skipped are made anew. Servers with two weights on one database, as during an upgrade,
each keep rows of their own. Knows vectors and labels; not images or the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from sqlalchemy import Connection, delete, func, select

from backend.clock import now_us
from backend.decoding import read_msgpack
from backend.storage.store import Head, Store
from backend.storage.tables import accepted_look, ann_head
from calico_model.interactive.naming.prototypes import Prototypes
from calico_model.types import Vector

_DESCRIPTION = "regions-2"  # a new name where regions are described in another way
_TIMEOUT_S = 30.0
_OTHERS_KEPT_US = 86_400_000_000  # an upgrade may be taken back
MOST_ANNOTATIONS = 500
"""How many annotations of a project count, the newest; labels keep few prototypes anyway."""


def described_by(version: str) -> str:
    """Returns the key of rows: the weights' version, and how they describe regions.

    Rows of another key are made anew.
    """
    return f"{version}+{_DESCRIPTION}"


class _StoredEmbedding(msgspec.Struct, array_like=True):
    label: str
    vector: bytes  # float16


@dataclass(frozen=True, eq=False)
class RegionEmbedding:
    """One accepted region.

    Attributes:
        label: as the project writes it.
        vector: (d,) float32, how the region looks to the base weights.
    """

    label: str
    vector: Vector


class PrototypeStore:
    """The embeddings in one database. Threads may share it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def projects(self) -> tuple[int, ...]:
        """Returns every project with an annotation, rising."""
        with self._store.read() as connection:
            ids = connection.execute(select(ann_head.c.project_id).distinct()).scalars()
            return tuple(sorted(ids))

    def outdated(self, project_id: int, base: str) -> tuple[Head, ...]:
        """Returns the annotations whose row is missing or wrong, the newest first.

        Args:
            project_id: whose annotations.
            base: from `described_by`, of the weights that describe regions.
        """
        columns = accepted_look.c
        query = select(columns.annotation_id, columns.key).where(
            columns.project_id == project_id, columns.base == base
        )
        with self._store.read() as connection:
            known = {row.annotation_id: row.key for row in connection.execute(query)}
        return tuple(
            head
            for head in reversed(self._live(project_id))
            if known.get(head.annotation_id) != head.key
        )

    def forget_gone(self, project_id: int) -> int:
        """Drops the rows of annotations that are deleted or too old; returns how many."""
        columns = accepted_look.c
        query = select(columns.annotation_id).where(columns.project_id == project_id)
        with self._store.read() as connection:
            known = set(connection.execute(query).scalars())
        gone = known - {head.annotation_id for head in self._live(project_id)}
        if gone:
            self._drop(project_id, sorted(gone))
        return len(gone)

    def keep(
        self, project_id: int, head: Head, base: str, embeddings: Sequence[RegionEmbedding]
    ) -> None:
        """Writes the row of one annotation in place of its earlier row."""
        encoded = [
            _StoredEmbedding(embedding.label, embedding.vector.astype(np.float16).tobytes())
            for embedding in embeddings
        ]
        row = self._store.insert(accepted_look).values(
            project_id=project_id,
            annotation_id=head.annotation_id,
            key=head.key,
            base=base,
            looks=msgspec.msgpack.encode(encoded),
            kept_at_us=now_us(),
        )
        newest = {name: row.excluded[name] for name in ("key", "looks", "kept_at_us")}
        place = ["project_id", "annotation_id", "base"]
        upsert = row.on_conflict_do_update(index_elements=place, set_=newest)

        def change(connection: Connection) -> None:
            connection.execute(upsert)

        self._store.write(change, timeout_s=_TIMEOUT_S)

    def prototypes(self, project_id: int, base: str) -> Prototypes:
        """Builds the prototypes of a project from its rows, the oldest annotation first."""
        columns = accepted_look.c
        query = (
            select(columns.looks)
            .where(columns.project_id == project_id, columns.base == base)
            .order_by(columns.annotation_id)
        )
        with self._store.read() as connection:
            rows = list(connection.execute(query).scalars())
        prototypes = Prototypes()
        for row in rows:
            for embedding in read_msgpack(row, list[_StoredEmbedding]):
                vector = np.frombuffer(embedding.vector, np.float16).astype(np.float32)
                prototypes = prototypes.add(embedding.label, vector)
        return prototypes

    def state(self, project_id: int, base: str) -> tuple[int, int]:
        """Returns a value that changes with the rows of a project, whoever writes them."""
        columns = accepted_look.c
        query = select(func.count(), func.coalesce(func.sum(columns.kept_at_us), 0)).where(
            columns.project_id == project_id, columns.base == base
        )
        with self._store.read() as connection:
            rows, times = connection.execute(query).one()
        return int(rows), int(times)

    def forget_other_weights(self, kept: frozenset[str]) -> None:
        """Drops the rows of weights that no server has, once they are a day old."""
        columns = accepted_look.c
        rows = delete(accepted_look).where(
            columns.base.not_in(sorted(kept)), columns.kept_at_us < now_us() - _OTHERS_KEPT_US
        )

        def change(connection: Connection) -> None:
            connection.execute(rows)

        self._store.write(change, timeout_s=_TIMEOUT_S)

    def _live(self, project_id: int) -> list[Head]:
        heads = self._store.heads(project_id)
        return [head for head in heads if not head.is_deleted][-MOST_ANNOTATIONS:]

    def _drop(self, project_id: int, annotation_ids: Sequence[int]) -> None:
        columns = accepted_look.c
        rows = delete(accepted_look).where(
            columns.project_id == project_id, columns.annotation_id.in_(annotation_ids)
        )

        def change(connection: Connection) -> None:
            connection.execute(rows)

        self._store.write(change, timeout_s=_TIMEOUT_S)
