"""Publication: an adapter becomes a version, whole or not at all.

Stage -> fsync -> rename -> one transaction. A folder without a row is an orphan of a crash and is
swept; a row never names a folder that was not on the disk before. Of every project the files of
the current version, of a candidate and of the 10 newest retired versions are kept; rows stay.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, select, update

from backend.clock import now_us
from backend.errors import DamagedAdapterError, VersionError
from backend.learning.schedule import RunState
from backend.learning.training_runs import RunRepository
from backend.storage.tables import adapter
from backend.storage.versions import (
    SERVED,
    AdapterVersion,
    Versions,
    VersionStatus,
    folder_digest,
)
from calico_model.staging import sync

_INCOMING = ".incoming"
_KEPT = 10  # retired versions of a project whose files are kept
_ORPHAN_S = 3600.0
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class CandidateOrigin:
    """What a candidate was made from.

    Attributes:
        project_id: whose it is.
        parent_id: the version it goes on from, None for the base.
        upto_seq: newest place in the journal it has seen.
        corrections: tasks it has learned from, its ancestors included.
        base: fingerprint of the weights.
        base_version: their name; begins the version's id.
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
    """Writes versions; everything it does for a run fails once that run is somebody else's.

    Args:
        versions: where they are read.
        runs: the runs of this trainer.
    """

    def __init__(self, versions: Versions, runs: RunRepository) -> None:
        self._versions, self._runs = versions, runs
        self._store = versions.store

    def register(
        self, run_id: int, origin: CandidateOrigin, write: Callable[[Path], object]
    ) -> str:
        """Brings a candidate to the disk and into the database; nobody is served by it yet.

        Args:
            run_id: the run that made it.
            origin: what it was made from.
            write: writes the adapter's files, synced, into a folder that does not exist yet.

        Returns:
            The id of the version.

        Raises:
            LeaseLostError: the run is no longer ours.
            StoreError: the database refused; the folder is swept later.
        """
        staged = self._versions.folder / _INCOMING / uuid.uuid4().hex
        staged.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(staged)
            digest, nbytes = folder_digest(staged)
        except BaseException:
            # On a full disk the next try needs what this one took.
            shutil.rmtree(staged, ignore_errors=True)
            raise
        uri = f"{origin.project_id}/{digest[:16]}-{run_id}"
        place = self._versions.folder / uri
        place.parent.mkdir(parents=True, exist_ok=True)
        staged.rename(place)
        for folder in (place.parent, self._versions.folder):
            sync(folder)

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
        """Makes a candidate the version its project is served with, and ends the run.

        Raises:
            DamagedAdapterError: its files are not what was registered.
            VersionError: it is no candidate, or the project is served by another version than the
                candidate was compared with.
            LeaseLostError: the run is no longer ours.
        """
        candidate = self._versions.find(version_id)
        if candidate is None or candidate.status is not VersionStatus.CANDIDATE:
            raise VersionError(f"{version_id}: expected a candidate")
        self._versions.verify(candidate)
        parent = None if candidate.parent_id is None else self._versions.find(candidate.parent_id)
        # A first version may go on from another project's, which goes on being served there.
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
            changed = _set_status(
                connection,
                VersionStatus.CURRENT,
                adapter.c.id == version_id,
                adapter.c.status == VersionStatus.CANDIDATE.value,
                gate=json.dumps(gate),
                reason=reason,
            )
            if not changed:
                raise VersionError(f"{version_id}: expected a candidate")
            ended = {"state": RunState.PUBLISHED.value, "ended_at_us": now_us(), "progress": 1.0}
            self._runs.hold(connection, run_id, **ended, eta_s=None)

        self._store.write(swap, timeout_s=_TIMEOUT_S)

    def reject(self, run_id: int, version_id: str, *, gate: Mapping[str, Any], reason: str) -> None:
        """Keeps a candidate as rejected with the reason, and ends the run.

        Raises:
            LeaseLostError: the run is no longer ours.
        """

        def refuse(connection: Connection) -> None:
            _set_status(
                connection,
                VersionStatus.REJECTED,
                adapter.c.id == version_id,
                adapter.c.status == VersionStatus.CANDIDATE.value,
                gate=json.dumps(gate),
                reason=reason,
            )
            ended = {"state": RunState.REJECTED.value, "ended_at_us": now_us(), "progress": 1.0}
            self._runs.hold(connection, run_id, **ended, eta_s=None)

        self._store.write(refuse, timeout_s=_TIMEOUT_S)

    def drop_candidate(self, version_id: str, *, reason: str) -> None:
        """Rejects a candidate that an earlier run left and nobody will judge any more."""

        def refuse(connection: Connection) -> None:
            _set_status(
                connection,
                VersionStatus.REJECTED,
                adapter.c.id == version_id,
                adapter.c.status == VersionStatus.CANDIDATE.value,
                reason=reason,
            )

        self._store.write(refuse, timeout_s=_TIMEOUT_S)

    def sweep(self) -> int:
        """Removes what crashes left and files nobody needs; returns how many folders went.

        What no row names may be about to be registered by another trainer: it goes once it is an
        hour old. Safe at any time.
        """
        root = self._versions.folder
        found = list((root / _INCOMING).glob("*"))
        # Before the rows: a folder that gets its row in between must not look like an orphan.
        found += [path for path in root.glob("*/*") if path.parent.name != _INCOMING]
        rows = self._versions.all()
        kept = {version.uri for version in _with_files(rows)}
        known = {version.uri for version in rows}
        gone = []
        for path in found:
            uri = path.relative_to(root).as_posix()
            if uri not in kept and (uri in known or _is_old(path)):
                gone.append(path)
        for path in gone:
            shutil.rmtree(path, ignore_errors=True)
        return len(gone)


def roll_back(versions: Versions, project_id: int, *, to: str | None, reason: str) -> str | None:
    """Serves a project with an earlier version again; takes effect with the next request.

    Args:
        versions: the project's among them.
        project_id: whose.
        to: a version that was published before, "base", or None for the one before the current;
            before a project's first version there is the base.
        reason: kept with the version that is taken back.

    Returns:
        The version served now, None for the base.

    Raises:
        VersionError: nothing to take back, or no such published version.
        DamagedAdapterError: the files of the earlier version are not what was published.
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
    """Takes a damaged current version out of service, for its nearest undamaged ancestor.

    A version that is no longer current is left as it is.

    Returns:
        The version served now, None for the base.
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
    if to is None:
        if current is None:
            raise VersionError(f"project {project_id}: serves the base; nothing to take back")
        parent = None if current.parent_id is None else versions.find(current.parent_id)
        return parent if parent is not None and parent.project_id == project_id else None
    if to == "base":
        if current is None:
            raise VersionError(f"project {project_id}: serves the base already")
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
        found = versions.find(version_id)
        if found is None or found.project_id != project_id:
            return None
        if found.status is VersionStatus.RETIRED:
            try:
                versions.verify(found)
            except DamagedAdapterError:
                pass
            else:
                return found
        version_id = found.parent_id
    return None


def _with_files(found: tuple[AdapterVersion, ...]) -> list[AdapterVersion]:
    """Versions whose files are kept; `found` is newest first."""
    kept: list[AdapterVersion] = []
    retired: dict[int, int] = {}
    for version in found:
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
    """Changes versions; returns their ids."""
    change = update(adapter).where(*where).values(status=status.value, **values)
    return tuple(connection.execute(change.returning(adapter.c.id)).scalars())
