"""The trainer: visits every project, derives its corrections, and trains one project at a time.

The trainer is a process of its own, so that a crash or lack of memory does not stop labeling. It
shares only the database and the folder of adapters with the serving process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from backend.clock import now_us, to_us
from backend.errors import BackendError, LeaseLostError, StoppedError
from backend.learning.derivation import Derivation
from backend.learning.publisher import Publisher, roll_back
from backend.learning.repository import CorrectionRepository
from backend.learning.rows import Standing, TaskRow
from backend.learning.schedule import (
    AcceptancePolicy,
    Cause,
    NewCorrection,
    RunState,
    SchedulePolicy,
    Situation,
    due,
    held_out_tasks,
    live_acceptance,
    reason_to_roll_back,
)
from backend.learning.session import FAILURES, TrainingSession
from backend.learning.training_runs import HEARTBEAT_S, RunRepository
from backend.storage.versions import AdapterVersion, Versions

_log = logging.getLogger(__name__)
_MOST_PAUSE_S = 60.0
_POLL_S = 1.0  # between two checks for new events while a version is refined


@dataclass(frozen=True)
class _Visited:
    """State of a project at its last visit."""

    newest_seq: int
    rows: tuple[TaskRow, ...]


class Trainer:
    """Trains the projects of one store.

    Args:
        repository: the derived corrections.
        derivation: keeps them up to date.
        versions: of all projects.
        runs: of this trainer.
        open_session: loads the model; called before the first run.
        policy: when to train.
        acceptance: when to roll a version back.
        heartbeat_s: seconds between two renewals of a lease.
        base: returns the fingerprint of the weights; called when a version exists to compare with.
        start_from: project whose version a project without a version of its own starts from, or
            None.
        learn_sources: judges the answers of sources by a project's corrections; called after they
            were derived.
    """

    def __init__(
        self,
        repository: CorrectionRepository,
        derivation: Derivation,
        versions: Versions,
        runs: RunRepository,
        open_session: Callable[[], TrainingSession],
        *,
        policy: SchedulePolicy | None = None,
        acceptance: AcceptancePolicy | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        start_from: int | None = None,
        base: Callable[[], str] | None = None,
        learn_sources: Callable[[int], int] = lambda _: 0,
    ) -> None:
        self._repository, self._derivation = repository, derivation
        self._versions, self._runs = versions, runs
        self._open_session = open_session
        self._session: TrainingSession | None = None
        self._is_warm = False
        self._policy = policy or SchedulePolicy()
        self._acceptance = acceptance or AcceptancePolicy()
        self._heartbeat_s = heartbeat_s
        self._start_from = start_from
        self._find_base = base
        self._learn_sources = learn_sources
        self._base: str | None = None
        self._visited: dict[int, _Visited] = {}

    def run(self, stop: threading.Event, *, tick_s: float = 2.0) -> None:
        """Works until `stop` is set; after each failed round in a row the pause is doubled."""
        pause_s = tick_s
        is_untidy = True
        while not stop.is_set():
            try:
                if is_untidy:
                    self._sweep()
                is_untidy = self.round(stop) > 0
                pause_s = tick_s
            except BackendError as error:
                _log.warning("trainer: %s", error, extra={"event": "trainer_round_failed"})
                pause_s = min(_MOST_PAUSE_S, 2 * pause_s)
            except Exception:  # the next round may succeed
                _log.exception("trainer failed", extra={"event": "trainer_round_failed"})
                pause_s = min(_MOST_PAUSE_S, 2 * pause_s)
            stop.wait(pause_s)

    def round(self, stop: threading.Event) -> int:
        """Visits every project once; returns the number of finished runs."""
        self._runs.abandon_dead()
        done, failed = 0, 0
        projects = self._runs.newest_seq()
        for project_id, newest_seq in projects.items():
            if stop.is_set():
                break
            try:
                done += self._visit(project_id, newest_seq, stop)
            except Exception as error:  # an error of one project must not stop the others
                failed += 1
                if failed == len(projects):
                    raise
                _log_failure(project_id, error)
        return done

    def _visit(self, project_id: int, newest_seq: int, stop: threading.Event) -> int:
        self._update(project_id, newest_seq)
        situation = self.situation(project_id)
        cause = due(self._policy, situation)
        if cause is not None:
            return self._train(project_id, cause, stop)
        if situation.waiting:
            self._warm_up()
        return 0

    def _warm_up(self) -> None:
        """Loads the model in advance, while a project waits for more corrections."""
        if self._session is not None or self._is_warm:
            return
        self._is_warm = True
        try:
            self._session = self._open_session()
        except StoppedError:
            return
        except FAILURES as error:
            # The first run tries again, and stores the reason.
            _log.warning("the model is not loaded: %s", error, extra={"event": "warm_up_failed"})

    def situation(self, project_id: int) -> Situation:
        """Returns the state of a project for the schedule."""
        current = self._versions.served(project_id, start_from=self._start_from)
        is_own = current is not None and current.project_id == project_id
        is_outdated = current is not None and is_own and self._is_outdated(current)
        learned = current.upto_seq if current is not None and is_own and not is_outdated else -1
        visited = self._visited.get(project_id)
        return Situation(
            now_us=now_us(),
            waiting=_waiting(project_id, () if visited is None else visited.rows, learned),
            requested_us=self._runs.requested_us(project_id),
            button_us=self._runs.button_us(project_id),
            runs=self._runs.past(project_id),
            is_outdated=is_outdated,
        )

    def _is_outdated(self, current: AdapterVersion) -> bool:
        """Whether a version was made for other weights than the served ones."""
        if self._find_base is None:
            return False
        if self._base is None:
            self._base = self._find_base()
        return current.base != self._base

    def _sweep(self) -> None:
        """Removes folders that crashes left, and files of versions that are not needed any more."""
        if gone := Publisher(self._versions, self._runs).sweep():
            _log.info("%d folders removed", gone, extra={"event": "adapters_swept"})

    def _update(self, project_id: int, newest_seq: int) -> None:
        """Derives a project's corrections again if it has new events."""
        visited = self._visited.get(project_id)
        if visited is not None and visited.newest_seq == newest_seq:
            return
        derived = self._derivation.derive(project_id)
        rows = self._repository.tasks(project_id)
        # The next round tries again what waits for Label Studio.
        self._visited[project_id] = _Visited(-1 if derived.waiting else newest_seq, rows)
        self._watch_acceptance(project_id, rows)
        self._judge_sources(project_id)

    def _judge_sources(self, project_id: int) -> None:
        """Judges the sources by the new corrections; after a failure, with the next correction."""
        try:
            self._learn_sources(project_id)
        except BackendError as error:
            about = {"event": "sources_not_judged", "project": project_id}
            _log.warning("sources not judged: %s", error, extra=about)

    def _watch_acceptance(self, project_id: int, rows: tuple[TaskRow, ...]) -> None:
        """Rolls the current version back if annotators accept less of it than of its parent."""
        current = self._versions.current(project_id)
        if current is None:
            return
        adapter_ids = frozenset(version.id for version in self._versions.all())
        base_ids = frozenset(row.version for row in rows if row.version) - adapter_ids
        parent = base_ids if current.parent_id is None else frozenset({current.parent_id})
        window = self._acceptance.window
        reason = reason_to_roll_back(
            self._acceptance,
            live_acceptance(rows, frozenset({current.id}), window=window),
            live_acceptance(rows, parent, window=window),
        )
        if reason is not None:
            served = roll_back(
                self._versions, project_id, to=None, reason=f"rolled back by itself: {reason}"
            )
            _log_rollback(current, served, reason)

    def _train(self, project_id: int, cause: Cause, stop: threading.Event) -> int:
        run_id = self._runs.claim(project_id, cause)
        if run_id is None:
            return 0
        about = {"project": project_id, "run": run_id, "cause": cause.value}
        _log.info("training begins", extra={"event": "training_began", **about})
        try:
            refines = cause is Cause.REFINE
            is_wanted = self._wanted_elsewhere() if refines else lambda: False
            with self._heartbeat(run_id) as is_lost:
                state = self._do(
                    project_id,
                    run_id,
                    lambda: stop.is_set() or is_lost() or is_wanted(),
                    refines=refines,
                )
        except LeaseLostError as error:
            _log.warning("%s", error, extra={"event": "lease_lost", **about})
            return 0
        _log.info("training ended: %s", state, extra={"event": "training_ended", **about})
        # The run has reconciled and derived: read the rows again at the next visit.
        self._visited.pop(project_id, None)
        return 1

    def _wanted_elsewhere(self) -> Callable[[], bool]:
        """Returns a function that tells whether another run is due, for which refining stops."""
        newest = self._runs.newest_seq()
        requested = {project_id: self._runs.requested_us(project_id) for project_id in newest}
        checked_s = time.monotonic()
        is_due = False

        def has_news(project_id: int, seq: int) -> bool:
            if newest.get(project_id) != seq:
                return True
            return requested.get(project_id) != self._runs.requested_us(project_id)

        def is_wanted() -> bool:
            nonlocal checked_s, is_due
            if not is_due and time.monotonic() - checked_s >= _POLL_S:
                is_due = any(
                    self._is_due(project_id, seq)
                    for project_id, seq in self._runs.newest_seq().items()
                    if has_news(project_id, seq)
                )
                checked_s = time.monotonic()
            return is_due

        return is_wanted

    def _is_due(self, project_id: int, newest_seq: int) -> bool:
        """Whether a run other than refining would be due if no run were under way."""
        self._update(project_id, newest_seq)
        situation = self.situation(project_id)
        ended = tuple(run for run in situation.runs if run.state is not RunState.RUNNING)
        return due(self._policy, replace(situation, runs=ended)) not in (None, Cause.REFINE)

    def _do(
        self, project_id: int, run_id: int, stop: Callable[[], bool], *, refines: bool
    ) -> RunState:
        """Does one claimed run, and ends it also after an error."""
        try:
            if self._session is None:
                self._runs.report(run_id, stage="loading the model")
                self._session = self._open_session()
            return self._session.train(project_id, run_id, stop=stop, refines=refines)
        except LeaseLostError:
            raise
        except StoppedError:
            self._runs.end(run_id, RunState.STOPPED, error="stopped")
            return RunState.STOPPED
        except FAILURES as error:
            _log.warning("training failed: %s", error, extra={"event": "training_failed"})
            self._runs.end(run_id, RunState.FAILED, error=f"{type(error).__name__}: {error}")
        except Exception as error:
            _log.exception("training failed", extra={"event": "training_failed"})
            self._runs.end(run_id, RunState.FAILED, error=f"{type(error).__name__}; see the log")
        return RunState.FAILED

    @contextmanager
    def _heartbeat(self, run_id: int) -> Iterator[Callable[[], bool]]:
        """Renews a lease while the block runs; yields a function that tells whether it was lost."""
        is_over, is_lost = threading.Event(), threading.Event()

        def beat() -> None:
            while not is_over.wait(self._heartbeat_s):
                try:
                    self._runs.renew(run_id)
                except LeaseLostError:
                    is_lost.set()
                    return
                except BackendError:  # the lease outlasts several beats
                    _log.warning("heartbeat failed", exc_info=True)

        thread = threading.Thread(target=beat, name="lease", daemon=True)
        thread.start()
        try:
            yield is_lost.is_set
        finally:
            is_over.set()
            thread.join()


def _waiting(project_id: int, rows: tuple[TaskRow, ...], learned: int) -> tuple[NewCorrection, ...]:
    """Corrections after the place `learned` that are not held out."""
    held_out = held_out_tasks(project_id, rows)
    return tuple(
        NewCorrection(row.seq, 0 if row.updated_at is None else to_us(row.updated_at))
        for row in rows
        if row.standing is Standing.CORRECTED and row.seq > learned and row.task_id not in held_out
    )


def _log_failure(project_id: int, error: Exception) -> None:
    about = {"event": "project_failed", "project": project_id}
    if isinstance(error, BackendError):
        _log.warning("project %s: %s", project_id, error, extra=about)
    else:
        _log.error("project %s failed", project_id, exc_info=error, extra=about)


def _log_rollback(current: AdapterVersion, served: str | None, reason: str) -> None:
    _log.warning(
        "%s taken back, %s serves: %s",
        current.id,
        served or "the shipped model",
        reason,
        extra={"event": "version_rolled_back", "project": current.project_id},
    )
