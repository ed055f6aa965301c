"""Which adapter version answers a request: one row read at its start, one base for all of them.

Every project has its own line of versions. A version that cannot be loaded is passed over for its
nearest ancestor that can, in what is announced as in what is answered, so that the two agree.
"""

from __future__ import annotations

import logging
import threading

from cachetools import LRUCache

from backend.errors import DamagedAdapterError, StoreError
from backend.served_model import AdaptableModel, ServedModel
from backend.serving.metrics import Metrics
from backend.storage.versions import AdapterVersion, Versions
from calico_model.errors import CalicoError

_log = logging.getLogger(__name__)
MOST_LOADED = 16


class AdapterRegistry:
    """The current version of every project, and the adapters that are in memory.

    Args:
        versions: of all projects.
        metrics: count what cannot be loaded.
        start_from: project whose version a project without one of its own begins with, or None.
    """

    def __init__(
        self, versions: Versions, metrics: Metrics, *, start_from: int | None = None
    ) -> None:
        self._versions, self._metrics, self._start_from = versions, metrics, start_from
        self._lock = threading.Lock()  # guards what is loaded; one thread reads a file at a time
        self._loaded: LRUCache[str, ServedModel] = LRUCache(MOST_LOADED)
        self._broken: set[str] = set()
        self._last: dict[int, AdapterVersion | None] = {}

    def current(self, project_id: int | None) -> AdapterVersion | None:
        """Reads the version that answers a project from now on; None for the base.

        While the database cannot be read, the version read last stays.
        """
        if project_id is None:
            return None
        try:
            found = self._versions.served(project_id, start_from=self._start_from)
            while found is not None and found.id in self._broken:
                found = self._parent(found)
        except StoreError as error:
            _log.warning("%s", error, extra={"event": "version_unread", "project": project_id})
            return self._last.get(project_id)
        self._last[project_id] = found
        return found

    def predictor(self, base: AdaptableModel, version: AdapterVersion | None) -> ServedModel:
        """Returns what answers with a version, or with the nearest one that can be loaded."""
        while version is not None:
            found = self._load(base, version)
            if found is not None:
                return found
            version = self._parent(version)
        return base

    def _load(self, base: AdaptableModel, version: AdapterVersion) -> ServedModel | None:
        with self._lock:
            if version.id in self._loaded:
                return self._loaded[version.id]
            if version.id in self._broken:
                return None
            try:
                found = base.with_adapter(version.id, self._versions.verify(version))
            except (DamagedAdapterError, CalicoError) as error:
                _log.error(
                    "version %s cannot be served: %s",
                    version.id,
                    error,
                    extra={"event": "version_unusable", "project": version.project_id},
                )
                self._metrics.unusable_versions.inc()
                self._broken.add(version.id)
                return None
            self._loaded[version.id] = found
            return found

    def _parent(self, version: AdapterVersion) -> AdapterVersion | None:
        return None if version.parent_id is None else self._versions.find(version.parent_id)
