"""Which adapter version answers a request: one row read at its start, one base for all versions.

Every project has its own line of versions. Where a version cannot be loaded, its nearest ancestor
that can be loaded is both announced and asked, so that the two agree. A version whose files are not
here now is tried again, less and less often: another server of the same database may have them, so
there the request is refused for a moment, and every server announces the same version.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from backend.errors import DamagedFilesError, FilesUnavailableError, StoreError
from backend.served_model import AdaptableModel, ServedModel
from backend.serving.caches import BoundedCache
from backend.serving.metrics import Metrics
from backend.storage.versions import AdapterVersion, Versions
from calico_model.errors import CalicoError

_log = logging.getLogger(__name__)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 15.0


@dataclass(frozen=True)
class _Absence:
    """A version whose files were not here.

    Attributes:
        error: says why.
        pause_s: until the next try.
        until_s: time of the next try.
    """

    error: FilesUnavailableError
    pause_s: float
    until_s: float


@dataclass(frozen=True)
class _ModelInMemory:
    """The model of a version, and the size of the version's files."""

    model: ServedModel
    nbytes: int


class AdapterRegistry:
    """The current version of every project, and the adapters that are in memory.

    Args:
        versions: of all projects.
        metrics: count what cannot be loaded.
        start_from: project whose version a project without one of its own begins with, or None.
        most_loaded: adapters in memory at once; the least recently used one leaves first.
        most_bytes: of their files together; one may be larger. None for any number.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        versions: Versions,
        metrics: Metrics,
        *,
        start_from: int | None = None,
        most_loaded: int = 16,
        most_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._versions, self._metrics, self._start_from = versions, metrics, start_from
        self._clock = clock
        self._lock = threading.Lock()  # guards what is loaded, and what cannot be
        self._loaded: BoundedCache[_ModelInMemory] = BoundedCache(
            sys.maxsize if most_bytes is None else most_bytes,
            # The one in use is kept, however large it is.
            lambda one: one.nbytes if most_bytes is None else min(one.nbytes, most_bytes),
            max_count=most_loaded,
        )
        self._broken: set[str] = set()
        self._absent: dict[str, _Absence] = {}
        self._last_read: dict[int, AdapterVersion | None] = {}

    @property
    def loaded(self) -> int:
        """Number of adapters in memory."""
        return len(self._loaded)

    def current(self, project_id: int | None) -> AdapterVersion | None:
        """Reads the version that answers a project from now on; None for the base.

        While the database cannot be read, the version read last stays.
        """
        if project_id is None:
            return None
        try:
            version = self._versions.served(project_id, start_from=self._start_from)
            while version is not None and self._is_passed_over(version):
                version = self._parent(version)
        except StoreError as error:
            _log.warning("%s", error, extra={"event": "version_unread", "project": project_id})
            return self._last_read.get(project_id)
        self._last_read[project_id] = version
        return version

    def require(self, base: AdaptableModel, version: AdapterVersion | None) -> None:
        """Checks that a version can answer here, where another server may answer instead.

        Raises:
            FilesUnavailableError: its files are not here now; another server may have them.
        """
        if version is not None and self._versions.store.is_shared:
            self._load(base, version)

    def model(self, base: AdaptableModel, version: AdapterVersion | None) -> ServedModel:
        """Returns the model of a version, or of its nearest ancestor that can be loaded.

        Raises:
            FilesUnavailableError: its files are not here now; another server may have them.
        """
        while version is not None:
            model = self._load(base, version)
            if model is not None:
                return model
            version = self._parent(version)
        return base

    def _is_passed_over(self, version: AdapterVersion) -> bool:
        """Whether an ancestor is announced instead of a version."""
        if version.id in self._broken:
            return True
        absence = self._absent.get(version.id)
        if absence is None or self._versions.store.is_shared:
            return False
        is_over = self._clock() >= absence.until_s
        return not (is_over and self._versions.files.may_be_there(version.uri))

    def _load(self, base: AdaptableModel, version: AdapterVersion) -> ServedModel | None:
        with self._lock:
            if (loaded := self._loaded.get(version.id)) is not None:
                return loaded.model
            if version.id in self._broken:
                return None
            absence = self._absent.get(version.id)
            if absence is not None and self._clock() < absence.until_s:
                self._refuse_where_shared(absence.error)
                return None
        try:
            # Without the lock: while files come over a network, other projects are answered.
            folder = self._versions.verify(version)
        except FilesUnavailableError as error:
            self._note_absence(version, error)
            self._refuse_where_shared(error)
            return None
        except DamagedFilesError as error:
            self._give_up(version, error)
            return None
        with self._lock:
            if (loaded := self._loaded.get(version.id)) is not None:
                return loaded.model
            try:
                model = base.with_adapter(version.id, folder)
            except CalicoError as error:
                self._give_up(version, error)
                return None
            self._absent.pop(version.id, None)
            self._loaded.put(version.id, _ModelInMemory(model, version.nbytes))
            return model

    def _refuse_where_shared(self, error: FilesUnavailableError) -> None:
        if self._versions.store.is_shared:
            raise error

    def _note_absence(self, version: AdapterVersion, error: FilesUnavailableError) -> None:
        before = self._absent.get(version.id)
        pause_s = _FIRST_PAUSE_S if before is None else min(2 * before.pause_s, _LONGEST_PAUSE_S)
        self._absent[version.id] = _Absence(error, pause_s, self._clock() + pause_s)
        about = {"event": "version_absent", "project": version.project_id}
        _log.warning("version %s is not here now: %s", version.id, error, extra=about)

    def _give_up(self, version: AdapterVersion, error: Exception) -> None:
        if version.id not in self._broken:
            about = {"event": "version_unusable", "project": version.project_id}
            _log.error("version %s cannot be served: %s", version.id, error, extra=about)
            self._metrics.unusable_versions.inc()
            self._broken.add(version.id)

    def _parent(self, version: AdapterVersion) -> AdapterVersion | None:
        return None if version.parent_id is None else self._versions.find(version.parent_id)
