"""Adapter versions, read-only: rows of the `adapter` table, and the folders of their weights.

`learning/publisher.py` writes them. A folder never changes once a row names it, and its hash is
compared with the row before the weights are loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import select

from backend.clock import from_us
from backend.errors import DamagedFilesError, FilesUnavailableError
from backend.storage.adapter_files import AdapterFiles
from backend.storage.store import Store
from backend.storage.tables import adapter


class VersionStatus(StrEnum):
    """Status of a version."""

    CANDIDATE = "candidate"
    CURRENT = "current"
    RETIRED = "retired"
    REJECTED = "rejected"
    QUARANTINED = "quarantined"


_RETRY_S = 15

SERVED = (VersionStatus.CURRENT, VersionStatus.RETIRED)
"""Status of versions that were published at some time."""


@dataclass(frozen=True)
class AdapterVersion:
    """One version of one project; immutable but for status, gate and reason.

    Attributes:
        id: name of the version in its predictions.
        project_id: the project whose corrections it learned.
        parent_id: the version that it started from and was compared with, None for the base.
        uri: its folder, relative to the folder of all adapters.
        sha256: `folder_digest` of that folder.
        nbytes: size of its files.
        status: see `VersionStatus`.
        upto_seq: newest place in the journal that its training has read.
        corrections: number of tasks it has learned, its ancestors included.
        gate: measurements of the gate, ready for JSON; empty before the gate.
        reason: why it was published, rejected or rolled back, or None.
        base: fingerprint of the base weights it was made for.
        created_at: UTC.
    """

    id: str
    project_id: int
    parent_id: str | None
    uri: str
    sha256: str
    nbytes: int
    status: VersionStatus
    upto_seq: int
    corrections: int
    base: str
    created_at: datetime
    gate: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None


class Versions:
    """Reads versions. Threads may share it.

    Args:
        store: the database.
        files: the folders of adapters; a path stands for a folder without a shelf.
    """

    def __init__(self, store: Store, files: AdapterFiles | Path) -> None:
        self.store = store
        self.files = AdapterFiles(files) if isinstance(files, Path) else files

    def current(self, project_id: int) -> AdapterVersion | None:
        """The current version of a project, None without one; reads one row."""
        query = select(adapter).where(
            adapter.c.project_id == project_id, adapter.c.status == VersionStatus.CURRENT.value
        )
        with self.store.read() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else _version(row)

    def served(self, project_id: int, *, start_from: int | None = None) -> AdapterVersion | None:
        """The version that predicts for a project, None for the base.

        Args:
            project_id: Label Studio's project id.
            start_from: project whose current version serves a project that never published a
                version of its own; None for the base.
        """
        own = self.current(project_id)
        if own is not None or start_from is None or start_from == project_id:
            return own
        return None if self.has_published(project_id) else self.current(start_from)

    def has_published(self, project_id: int) -> bool:
        """Whether a project ever published a version of its own."""
        query = select(adapter.c.id).where(
            adapter.c.project_id == project_id, adapter.c.status.in_([s.value for s in SERVED])
        )
        with self.store.read() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def projects(self) -> tuple[int, ...]:
        """Ids of the projects that have a current version."""
        query = select(adapter.c.project_id).where(adapter.c.status == VersionStatus.CURRENT.value)
        with self.store.read() as connection:
            return tuple(sorted(connection.execute(query).scalars()))

    def find(self, version_id: str) -> AdapterVersion | None:
        """One version, or None."""
        with self.store.read() as connection:
            rows = connection.execute(select(adapter).where(adapter.c.id == version_id))
            row = rows.mappings().first()
        return None if row is None else _version(row)

    def all(self, project_id: int | None = None) -> tuple[AdapterVersion, ...]:
        """Every version of a project, or of all, newest first."""
        query = select(adapter).order_by(adapter.c.created_at_us.desc(), adapter.c.id.desc())
        if project_id is not None:
            query = query.where(adapter.c.project_id == project_id)
        with self.store.read() as connection:
            return tuple(_version(row) for row in connection.execute(query).mappings())

    @property
    def folder(self) -> Path:
        """Folder of all adapters on this machine."""
        return self.files.folder

    def path(self, version: AdapterVersion) -> Path:
        """Folder of a version on this machine, unchecked."""
        return self.files.path(version.uri)

    def verify(self, version: AdapterVersion) -> Path:
        """Returns a version's folder after comparing its hash; see `verified_folder`."""
        return verified_folder(self.files, version)


def verified_folder(files: AdapterFiles, version: AdapterVersion) -> Path:
    """Returns the folder of a version whose files are those that were registered.

    Raises:
        DamagedFilesError: the files are others.
        FilesUnavailableError: the folder is not here, and cannot be reached now.
    """
    try:
        return files.verified(version.uri, version.sha256)
    except DamagedFilesError as error:
        raise DamagedFilesError(
            f"{version.id}: {error}; choose another version "
            f"(calico versions --project {version.project_id}), or train again"
        ) from error
    except FilesUnavailableError as error:
        raise FilesUnavailableError(
            f"{version.id}: {error}; it is used as soon as it is there, or serve an earlier "
            f"version: calico rollback --project {version.project_id}",
            retry_after_s=_RETRY_S,
        ) from error


def _version(row: Mapping[Any, Any]) -> AdapterVersion:
    return AdapterVersion(
        id=row["id"],
        project_id=row["project_id"],
        parent_id=row["parent_id"],
        uri=row["uri"],
        sha256=row["sha256"],
        nbytes=row["nbytes"],
        status=VersionStatus(row["status"]),
        upto_seq=row["upto_seq"],
        corrections=row["corrections"],
        base=row["base_sha256"],
        created_at=from_us(row["created_at_us"]),
        gate={} if row["gate"] is None else json.loads(row["gate"]),
        reason=row["reason"],
    )
