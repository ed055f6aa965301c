"""Publication: an adapter becomes a version, completely or not at all.

Stage -> fsync -> rename -> one transaction. A folder without a row is an orphan of a crash and is
swept; a row never names a folder that was not on the disk before. The files of a project's current
version, of a candidate and of the 10 newest retired versions are kept; rows stay for good.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, select, update

from backend.clock import now_us
from backend.errors import DamagedFilesError, FilesUnavailableError, VersionError
from backend.learning.schedule import RunState
from backend.learning.training_runs import RunRepository
from backend.storage.adapter_files import INCOMING, folder_digest
from backend.storage.tables import adapter
from backend.storage.versions import (
    SERVED,
    AdapterVersion,
    Versions,
    VersionStatus,
)
from calico_model.staging import sync

_log = logging.getLogger(__name__)
_KEPT = 10  # retired versions of a project whose files are kept
_ORPHAN_S = 3600.0
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class CandidateOrigin:
    """What a candidate was made from.

    Attributes:
        project_id: Label Studio's project id.
        parent_id: the version that training started from, None for the base.
        upto_seq: newest place in the journal that training has read.
        corrections: number of tasks it has learned, its ancestors included.
        base: fingerprint of the base weights.
        base_version: name of the base weights; the version's id begins with it.
        code: version of the code.
    """

    project_id: int
    parent_id: str | None
    upto_seq: int
    corrections: int
    base: str
    base_version: str
    code: str


class Publisher:
    """Writes versions; every write for a run fails once another trainer has taken the run over.

    Args:
        versions: reads versions of the same store.
        runs: the runs of this trainer.
    """

    def __init__(self, versions: Versions, runs: RunRepository) -> None:
        self._versions, self._runs = versions, runs
        self._store = versions.store

    def register(
        self, run_id: int, origin: CandidateOrigin, write: Callable[[Path], object]
    ) -> str:
        """Writes a candidate to the disk and into the database; it is not served yet.

        Args:
            run_id: the run that made the candidate.
            origin: what the candidate was made from.
            write: writes the adapter's files, synced, into a folder that does not exist yet.

        Returns:
            The id of the version.

        Raises:
            LeaseLostError: the run is no longer ours.
            FilesUnavailableError: the shelf cannot be reached; the folder is swept later.
            StoreError: the database refused; the folder is swept later.
        """
        staged = self._versions.folder / INCOMING / uuid.uuid4().hex
        staged.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(staged)
            digest, nbytes = folder_digest(staged)
        except BaseException:
            # On a full disk the next try needs the space.
            shutil.rmtree(staged, ignore_errors=True)
            raise
        uri = f"{origin.project_id}/{digest[:16]}-{run_id}"
        place = self._versions.folder / uri
        place.parent.mkdir(parents=True, exist_ok=True)
        staged.rename(place)
        for folder in (place.parent, self._versions.folder):
            sync(folder)
        self._versions.files.share(uri)  # before a row names it: every server may be asked for it

        def insert(connection: Connection) -> str:
            mine = adapter.c.project_id == origin.project_id
            count = connection.execute(select(func.count()).where(mine)).scalar_one()
            version_id = f"{origin.base_version}-p{origin.project_id}v{count + 1}-{digest[:8]}"
            connection.execute(
                adapter.insert().values(
                    id=version_id,
                    project_id=origin.project_id,
                    parent_id=origin.parent_id,
                    uri=uri,
                    sha256=digest,
                    nbytes=nbytes,
                    status=VersionStatus.CANDIDATE.value,
                    upto_seq=origin.upto_seq,
                    corrections=origin.corrections,
                    base_sha256=origin.base,
                    code_version=origin.code[:40],
                    created_at_us=now_us(),
                )
            )
            self._runs.hold(connection, run_id, adapter_id=version_id)
            return version_id

        return self._store.write(insert, timeout_s=_TIMEOUT_S)

    def publish(
        self, run_id: int, version_id: str, *, gate: Mapping[str, Any], reason: str
    ) -> None:
        """Makes a candidate the current version of its project, and ends the run.

        Raises:
            DamagedFilesError: its files differ from the registered ones.
            FilesUnavailableError: they cannot be reached now.
            VersionError: it is not a candidate, or the current version is not the one that the
                candidate was compared with.
            LeaseLostError: the run is no longer ours.
        """
        candidate = self._versions.find(version_id)
        if candidate is None or candidate.status is not VersionStatus.CANDIDATE:
            raise VersionError(f"{version_id}: expected a candidate")
        self._versions.verify(candidate)
        parent = None if candidate.parent_id is None else self._versions.find(candidate.parent_id)
        # A first version may start from another project's version, which stays current there.
        is_own = parent is not None and parent.project_id == candidate.project_id
        expected = (candidate.parent_id,) if is_own else ()

        def swap(connection: Connection) -> None:
            retired = _set_status(
                connection,
                VersionStatus.RETIRED,
                adapter.c.project_id == candidate.project_id,
                adapter.c.status == VersionStatus.CURRENT.value,
            )
            was_compared = retired == expected
            if not was_compared:
                raise VersionError(
                    f"{version_id}: the project's version changed while it was trained"
                )
            changed = _decide(
                connection, version_id, VersionStatus.CURRENT, gate=json.dumps(gate), reason=reason
            )
            if not changed:
                raise VersionError(f"{version_id}: expected a candidate")
            ended = {"state": RunState.PUBLISHED.value, "ended_at_us": now_us(), "progress": 1.0}
            self._runs.hold(connection, run_id, **ended, eta_s=None)

        self._store.write(swap, timeout_s=_TIMEOUT_S)

    def reject(self, run_id: int, version_id: str, *, gate: Mapping[str, Any], reason: str) -> None:
        """Marks a candidate as rejected with the reason, and ends the run.

        Raises:
            LeaseLostError: the run is no longer ours.
        """

        def refuse(connection: Connection) -> None:
            _decide(
                connection, version_id, VersionStatus.REJECTED, gate=json.dumps(gate), reason=reason
            )
            ended = {"state": RunState.REJECTED.value, "ended_at_us": now_us(), "progress": 1.0}
            self._runs.hold(connection, run_id, **ended, eta_s=None)

        self._store.write(refuse, timeout_s=_TIMEOUT_S)

    def drop_candidate(self, version_id: str, *, reason: str) -> None:
        """Rejects a candidate that an earlier run left before the gate."""

        def refuse(connection: Connection) -> None:
            _decide(connection, version_id, VersionStatus.REJECTED, reason=reason)

        self._store.write(refuse, timeout_s=_TIMEOUT_S)

    def sweep(self) -> int:
        """Removes orphans and files that are not needed any more; returns the number of folders.

        A folder without a row may be about to be registered by another trainer, so it is removed
        once it is an hour old. Safe at any time.
        """
        root = self._versions.folder
        folders = list((root / INCOMING).glob("*"))
        # Before the rows: a folder that gets its row in between must not look like an orphan.
        folders += [path for path in root.glob("*/*") if path.parent.name != INCOMING]
        rows = self._versions.all()
        kept = {version.uri for version in _with_files(rows)}
        known = {version.uri for version in rows}
        gone = []
        for path in folders:
            uri = path.relative_to(root).as_posix()
            if uri not in kept and (uri in known or _is_old(path)):
                gone.append(path)
        for path in gone:
            shutil.rmtree(path, ignore_errors=True)
        try:
            return len(gone) + self._versions.files.withdraw(known - kept)
        except FilesUnavailableError as error:  # the next sweep sees to the rest
            _log.warning("%s", error, extra={"event": "shelf_unreachable"})
            return len(gone)


def roll_back(versions: Versions, project_id: int, *, to: str | None, reason: str) -> str | None:
    """Serves a project with an earlier version again; takes effect with the next request.

    Args:
        versions: the project's among them.
        project_id: Label Studio's project id.
        to: a version that was published before, "base", or None for the parent of the current
            version; the parent of a project's first version is the base.
        reason: stored with the version that is rolled back.

    Returns:
        The id of the version served now, None for the base.

    Raises:
        VersionError: the base is served already, or there is no such published version.
        DamagedFilesError: the files of the earlier version differ from the published ones.
        FilesUnavailableError: they cannot be reached now.
    """
    current = versions.current(project_id)
    wanted = _earlier(versions, project_id, current, to)
    if wanted is not None:
        versions.verify(wanted)

    def swap(connection: Connection) -> None:
        mine = adapter.c.project_id == project_id
        is_current = adapter.c.status == VersionStatus.CURRENT.value
        retired = _set_status(connection, VersionStatus.RETIRED, mine, is_current, reason=reason)
        if retired != (() if current is None else (current.id,)):
            raise VersionError(f"project {project_id}: its version changed meanwhile; try again")
        if wanted is None:
            return
        is_retired = adapter.c.status == VersionStatus.RETIRED.value
        mine = adapter.c.id == wanted.id
        if not _set_status(connection, VersionStatus.CURRENT, mine, is_retired):
            raise VersionError(f"{wanted.id}: was taken out of service meanwhile; try again")

    versions.store.write(swap, timeout_s=_TIMEOUT_S)
    return None if wanted is None else wanted.id


def quarantine(versions: Versions, version: AdapterVersion, *, reason: str) -> str | None:
    """Replaces a damaged current version by its nearest undamaged ancestor.

    A version that is no longer current stays unchanged.

    Returns:
        The id of the version served now, None for the base.
    """
    heir = _nearest_whole(versions, version.project_id, version.parent_id)

    def swap(connection: Connection) -> None:
        is_current = adapter.c.status == VersionStatus.CURRENT.value
        mine = adapter.c.id == version.id
        gone = _set_status(connection, VersionStatus.QUARANTINED, mine, is_current, reason=reason)
        if heir is not None and gone:
            is_retired = adapter.c.status == VersionStatus.RETIRED.value
            _set_status(connection, VersionStatus.CURRENT, adapter.c.id == heir.id, is_retired)

    versions.store.write(swap, timeout_s=_TIMEOUT_S)
    served = versions.current(version.project_id)
    return None if served is None else served.id


def _earlier(
    versions: Versions, project_id: int, current: AdapterVersion | None, to: str | None
) -> AdapterVersion | None:
    """Returns the version to serve after a rollback, None for the base."""
    if to is None:
        if current is None:
            raise VersionError(
                f"project {project_id}: the shipped model answers it; there is nothing to take back"
            )
        parent = None if current.parent_id is None else versions.find(current.parent_id)
        return parent if parent is not None and parent.project_id == project_id else None
    if to == "base":
        if current is None:
            raise VersionError(f"project {project_id}: the shipped model answers it already")
        return None
    wanted = versions.find(to)
    if wanted is None or wanted.project_id != project_id or wanted.status not in SERVED:
        raise VersionError(f"{to}: expected a published version of project {project_id}, or base")
    if wanted.status is VersionStatus.CURRENT:
        raise VersionError(f"{to}: is served already")
    return wanted


def _nearest_whole(
    versions: Versions, project_id: int, version_id: str | None
) -> AdapterVersion | None:
    while version_id is not None:
        ancestor = versions.find(version_id)
        if ancestor is None or ancestor.project_id != project_id:
            return None
        if ancestor.status is VersionStatus.RETIRED:
            try:
                versions.verify(ancestor)
            except (DamagedFilesError, FilesUnavailableError):
                pass
            else:
                return ancestor
        version_id = ancestor.parent_id
    return None


def _with_files(versions: tuple[AdapterVersion, ...]) -> list[AdapterVersion]:
    """Versions whose files are kept; `versions` is newest first."""
    kept: list[AdapterVersion] = []
    retired: dict[int, int] = {}
    for version in versions:
        if version.status is VersionStatus.RETIRED:
            retired[version.project_id] = retired.get(version.project_id, 0) + 1
            if retired[version.project_id] > _KEPT:
                continue
        if version.status is not VersionStatus.REJECTED:
            kept.append(version)
    return kept


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > _ORPHAN_S
    except FileNotFoundError:
        return False


def _set_status(
    connection: Connection, status: VersionStatus, *where: Any, **values: object
) -> tuple[str, ...]:
    """Sets the status of the versions that match; returns their ids."""
    change = update(adapter).where(*where).values(status=status.value, **values)
    return tuple(connection.execute(change.returning(adapter.c.id)).scalars())


def _decide(
    connection: Connection, version_id: str, status: VersionStatus, **values: object
) -> bool:
    """Decides on a candidate, for good; returns False if the version is no candidate."""
    is_candidate = adapter.c.status == VersionStatus.CANDIDATE.value
    return bool(_set_status(connection, status, adapter.c.id == version_id, is_candidate, **values))
