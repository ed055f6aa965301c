"""Reconciles every project with Label Studio, at start and then every minute, in its own thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from backend.errors import BackendError
from backend.label_studio.client import LabelStudioClient
from backend.learning.reconcile import PAUSES_S, Reconciler, Repair
from backend.learning.repository import CorrectionRepository

_log = logging.getLogger(__name__)
_FULL_EVERY_S = 3600.0


class ReconcileWatch:
    """A thread that reconciles; the next round tries a failed project again.

    Args:
        repository: the database with the journal; its projects are compared.
        client: Label Studio's API.
        interval_s: seconds between two rounds; one round per hour compares every task.
        pauses_s: seconds to wait before each further try of a failed call.
        on_done: called with the project id and the result of each comparison, None if it failed.
        leads: whether this server is the one of several that asks Label Studio.
    """

    def __init__(
        self,
        repository: CorrectionRepository,
        client: LabelStudioClient,
        *,
        interval_s: float = 60.0,
        pauses_s: Sequence[float] = PAUSES_S,
        on_done: Callable[[int, Repair | None], None] | None = None,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self._repository = repository
        self._reconciler = Reconciler(repository, client, pauses_s=pauses_s, sleep=self._pause)
        self._interval_s, self._leads = interval_s, leads
        self._on_done = on_done or (lambda _project_id, _repair: None)
        self._is_closed = threading.Event()
        self._full_at: dict[int, float] = {}
        self._thread = threading.Thread(target=self._run, name="reconcile-watch", daemon=True)

    def start(self) -> None:
        """Starts the thread; its first round compares every task of every project."""
        self._thread.start()

    def close(self) -> None:
        """Stops the thread after the call under way."""
        self._is_closed.set()

    def round(self) -> None:
        """Compares every project once."""
        for project_id in self._repository.projects():
            if self._is_closed.is_set() or not self._leads():
                return
            self._reconcile(project_id)

    def _pause(self, seconds: float) -> None:
        if self._is_closed.wait(seconds):
            raise BackendError("the reconciler was stopped")

    def _reconcile(self, project_id: int) -> None:
        now = time.monotonic()
        is_full = now >= self._full_at.get(project_id, now)
        try:
            repair = self._reconciler.reconcile(project_id, is_full=is_full)
        except BackendError as error:
            _log.warning(
                "project %s cannot be compared: %s",
                project_id,
                error,
                extra={"event": "reconcile_failed", "project": project_id},
            )
            self._on_done(project_id, None)
            return
        if is_full:
            self._full_at[project_id] = now + _FULL_EVERY_S
        self._on_done(project_id, repair)

    def _run(self) -> None:
        while not self._is_closed.is_set():
            try:
                self.round()
            except Exception:  # the next round may succeed; without this thread there is none
                _log.exception("reconciling failed", extra={"event": "reconcile_failed"})
            # A server that does not lead asks soon again whether it does by now.
            self._is_closed.wait(self._interval_s if self._leads() else min(5.0, self._interval_s))
