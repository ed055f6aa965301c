"""Titles of Label Studio's projects for the pages: asked for in the background, and kept.

No page waits for Label Studio: a title that is not known yet is left out, and the page that is
loaded a few seconds later has it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from cachetools import LRUCache, TTLCache

from backend.errors import BackendError

_log = logging.getLogger(__name__)
_KEPT_S = 300.0
_PAUSE_S = 30.0  # after a failure
_MOST_KEPT = 1000
_MOST_WAITING = 100  # two pages of projects
_MOST_LETTERS = 500


class ProjectTitles:
    """Titles by project id. Threads may share it; no call waits.

    Args:
        fetch: asks Label Studio for one title; may raise BackendError. None if there is no Label
            Studio to ask.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        fetch: Callable[[int], str] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch, self._clock = fetch, clock
        self._lock = threading.Lock()
        self._asked: TTLCache[int, None] = TTLCache(_MOST_KEPT, _KEPT_S, timer=clock)
        self._titles: LRUCache[int, str] = LRUCache(_MOST_KEPT)
        self._waiting: dict[int, None] = {}
        self._thread: threading.Thread | None = None
        self._asks_again_at = clock()

    def of(self, project_id: int) -> str | None:
        """Returns the last known title, None if it is not known; asks for it if that was long ago.

        The thread that asks lives only as long as there is something to ask for.
        """
        with self._lock:
            if self._fetch is not None and project_id not in self._asked:
                self._ask(project_id)
            return self._titles.get(project_id)

    def _ask(self, project_id: int) -> None:
        if self._clock() < self._asks_again_at or len(self._waiting) >= _MOST_WAITING:
            return
        self._waiting[project_id] = None
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="titles", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (project_id := self._next()) is not None:
            try:
                assert self._fetch is not None
                title = self._fetch(project_id).strip()[:_MOST_LETTERS]
            except BackendError as error:
                _log.info("the title of project %s is not known: %s", project_id, error)
                with self._lock:
                    self._waiting.clear()
                    self._asks_again_at = self._clock() + _PAUSE_S
                continue
            with self._lock:
                self._titles[project_id] = title

    def _next(self) -> int | None:
        """The next project to ask for, once in a while even if that fails; None ends the thread."""
        with self._lock:
            project_id = next(iter(self._waiting), None)
            if project_id is None:
                self._thread = None
            else:
                del self._waiting[project_id]
                self._asked[project_id] = None
            return project_id
