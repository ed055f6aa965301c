"""Which adapter version answers a request: one row read at its start, one base for all versions.

Every project has its own line of versions. Where a version cannot be loaded, its nearest ancestor
that can be loaded is both announced and asked, so that the two agree.
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


class AdapterRegistry:
    """The current version of every project, and the adapters that are in memory.

    Args:
        versions: of all projects.
        metrics: count what cannot be loaded.
        start_from: project whose version a project without one of its own begins with, or None.
        most_loaded: adapters in memory at once; the least recently used one leaves first.
    """

    def __init__(
        self,
        versions: Versions,
        metrics: Metrics,
        *,
        start_from: int | None = None,
        most_loaded: int = 16,
    ) -> None:
        self._versions, self._metrics, self._start_from = versions, metrics, start_from
        self._lock = threading.Lock()  # guards what is loaded; one thread reads a file at a time
        self._loaded: LRUCache[str, ServedModel] = LRUCache(most_loaded)
        self._broken: set[str] = set()
        self._last_read: dict[int, AdapterVersion | None] = {}

    def current(self, project_id: int | None) -> AdapterVersion | None:
        """Reads the version that answers a project from now on; None for the base.

        While the database cannot be read, the version read last stays.
        """
        if project_id is None:
            return None
        try:
            version = self._versions.served(project_id, start_from=self._start_from)
            while version is not None and version.id in self._broken:
                version = self._parent(version)
        except StoreError as error:
            _log.warning("%s", error, extra={"event": "version_unread", "project": project_id})
            return self._last_read.get(project_id)
        self._last_read[project_id] = version
        return version

    def model(self, base: AdaptableModel, version: AdapterVersion | None) -> ServedModel:
        """Returns the model of a version, or of its nearest ancestor that can be loaded."""
        while version is not None:
            model = self._load(base, version)
            if model is not None:
                return model
            version = self._parent(version)
        return base

    def _load(self, base: AdaptableModel, version: AdapterVersion) -> ServedModel | None:
        with self._lock:
            if version.id in self._loaded:
                return self._loaded[version.id]
            if version.id in self._broken:
                return None
            try:
                model = base.with_adapter(version.id, self._versions.verify(version))
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
            self._loaded[version.id] = model
            return model

    def _parent(self, version: AdapterVersion) -> AdapterVersion | None:
        return None if version.parent_id is None else self._versions.find(version.parent_id)
