"""One training run from top to bottom: corrections in, a published or a rejected version out.

Knows the store and the order of the steps; the model is behind the protocol `Updater`. If a run is
stopped or killed at any place, the next run starts over, or goes on at the gate if there is a
candidate already.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from backend.errors import (
    BackendError,
    DamagedFilesError,
    FilesUnavailableError,
    LabelStudioError,
)
from backend.learning.calibration import calibrate_project, judged_regions
from backend.learning.derivation import Derivation
from backend.learning.gate import (
    CorrectionAgreement,
    GateEvidence,
    GatePolicy,
    Quality,
    QualityComparison,
    Verdict,
    gate_figures,
    judge,
    judge_refinement,
)
from backend.learning.publisher import CandidateOrigin, Publisher, quarantine
from backend.learning.reconcile import Reconciler
from backend.learning.repository import CorrectionRepository
from backend.learning.schedule import RunState
from backend.learning.supervision import known_kinds, true_parts
from backend.learning.training_material import CorrectedTask, TrainingMaterial, gather_material
from backend.learning.training_runs import RunRepository
from backend.storage.versions import AdapterVersion, Versions, VersionStatus
from calico_model.errors import CalicoError
from calico_model.inference.confidence import Calibration, write_beside

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

MOST_JUDGED = 10  # new corrections, and earlier ones, that are measured
REFINE_S = 45.0  # seconds of learning of a refining run; a first version takes less
_REPORT_EVERY_S = 1.0
_NOTHING_NAMED = "nothing to learn from: no new correction has a region with a name"
FAILURES = (BackendError, CalicoError, OSError, MemoryError)
"""Errors that may end a run without a defect of this code."""

OnProgress = Callable[[float, float | None], None]
"""Called with the finished share in [0, 1] and the remaining seconds, None if unknown."""
WriteAdapter = Callable[[Path], object]
"""Writes the adapter's files into a folder that does not exist yet, synced to the disk."""
Stop = Callable[[], bool]
"""Returns True once the work has to end soon."""


class Updater(Protocol):
    """The model as training uses it."""

    @property
    def base(self) -> str:
        """Fingerprint of the base weights."""

    @property
    def base_version(self) -> str:
        """Version name in predictions of the base without an adapter."""

    def update(
        self,
        new: Sequence[CorrectedTask],
        earlier: Sequence[CorrectedTask],
        *,
        start: Path | None,
        on_progress: OnProgress,
        stop: Stop,
        seconds: float | None = None,
    ) -> WriteAdapter | None:
        """Learns from corrections.

        Args:
            new: corrections that were not learned before.
            earlier: corrections to rehearse.
            start: folder of the adapter to go on from, None for the base.
            on_progress: called again and again.
            stop: called again and again; True ends the update.
            seconds: of learning; as planned if None.

        Returns:
            The function that writes the adapter; None if the update was stopped.
        """

    def measure(self, adapter: Path | None, tasks: Sequence[CorrectedTask]) -> Quality | None:
        """Measures an adapter, or the base, on tasks; None if none of the tasks can be used."""

    def probe(self, adapter: Path | None, tasks: Sequence[CorrectedTask]) -> Quality | None:
        """Measures an adapter, or the base, on base data.

        None without base data, or if the images of `tasks` are unlike the base data, so that
        learning them forgets none of it.
        """

    def agreement(
        self, new: Sequence[CorrectedTask], earlier: Sequence[CorrectedTask]
    ) -> CorrectionAgreement | None:
        """Measures how well corrections are predicted from others; None without a dense head."""


class TrainingSession:
    """Runs the trainings of one store.

    Args:
        repository: the derived corrections.
        derivation: keeps them up to date.
        reconciler: finds lost events before a run, or None without an API key.
        versions: of all projects.
        runs: of this trainer.
        updater: the model.
        policy: limits of the gate.
        start_from: project whose version a project without a version of its own starts from, or
            None.
        code: version of the code.
    """

    def __init__(
        self,
        repository: CorrectionRepository,
        derivation: Derivation,
        reconciler: Reconciler | None,
        versions: Versions,
        runs: RunRepository,
        updater: Updater,
        *,
        policy: GatePolicy | None = None,
        start_from: int | None = None,
        code: str = "",
    ) -> None:
        self._repository, self._derivation = repository, derivation
        self._reconciler, self._versions, self._runs = reconciler, versions, runs
        self._updater, self._policy = updater, policy or GatePolicy()
        self._start_from, self._code = start_from, code
        self._publisher = Publisher(versions, runs)

    def train(self, project_id: int, run_id: int, *, stop: Stop, refines: bool = False) -> RunState:
        """Does one claimed run and ends it.

        Args:
            project_id: the project to train.
            run_id: the claimed run.
            stop: True ends the run soon, without a decision.
            refines: go on learning what the current version knows.

        Returns:
            How the run ended; an error is raised and leaves the run open.

        Raises:
            BackendError, CalicoError: the run failed.
            LeaseLostError: another trainer has taken the run over.
        """
        if not refines:
            self._runs.report(run_id, stage="comparing with Label Studio")
            self._reconcile(project_id)
            self._derivation.derive(project_id)
        current, start = self._starting_version(project_id)
        material = gather_material(
            self._repository, self._derivation, project_id, current, start, refines=refines
        )
        self._runs.note(run_id, upto_seq=material.upto_seq)
        corrected = material.earlier if refines else material.new
        if not corrected:
            return self._end(run_id, "there is nothing new to learn from")
        if not any(known_kinds(task.correction) for task in corrected):
            # Rejected, not stopped: a run of the same corrections would end the same way.
            self._runs.end(run_id, RunState.REJECTED, error=_NOTHING_NAMED)
            return RunState.REJECTED
        candidate = self._left_candidate(material)
        if candidate is None:
            candidate = self._learn(run_id, material, stop)
        if candidate is None or stop():
            return self._end(run_id, "stopped")
        self._runs.report(run_id, stage="measuring")
        try:
            evidence = self._measure(run_id, material, candidate)
        except CalicoError as error:
            # For example an adapter with NaN weights, which cannot be loaded.
            reason = f"cannot be measured: {error}"
            self._publisher.reject(run_id, candidate.id, gate={}, reason=reason)
            return RunState.REJECTED
        if stop():
            return self._end(run_id, "stopped")
        decide = judge_refinement if refines else judge
        return self._decide(run_id, candidate, evidence, decide(self._policy, evidence))

    def _end(self, run_id: int, reason: str) -> RunState:
        self._runs.end(run_id, RunState.STOPPED, error=reason)
        return RunState.STOPPED

    def _reconcile(self, project_id: int) -> None:
        if self._reconciler is None:
            return
        try:
            self._reconciler.reconcile(project_id, is_full=True)
        except LabelStudioError as error:
            # The known corrections are worth learning; the serving process reconciles again later.
            _log.warning(
                "project %s: training without asking Label Studio: %s",
                project_id,
                error,
                extra={"event": "reconcile_failed", "project": project_id},
            )

    def _starting_version(self, project_id: int) -> tuple[AdapterVersion | None, Path | None]:
        """Returns the version to be compared with, and the folder to go on from; None for the base.

        Damaged versions are quarantined until a whole one is found.

        Raises:
            FilesUnavailableError: the files cannot be reached now, which says nothing about them.
        """
        while True:
            current = self._versions.served(project_id, start_from=self._start_from)
            if current is None:
                return None, None
            if current.base != self._updater.base:
                # The version was made for other weights: learn everything anew.
                return current, None
            try:
                return current, self._versions.verify(current)
            except DamagedFilesError as error:
                _log.error("%s", error, extra={"event": "adapter_damaged", "version": current.id})
                quarantine(self._versions, current, reason=str(error))

    def _left_candidate(self, material: TrainingMaterial) -> AdapterVersion | None:
        """Returns a candidate that an earlier run made of exactly this material; drops others."""
        fitting = None
        for version in self._versions.all(material.project_id):
            if version.status is not VersionStatus.CANDIDATE:
                continue
            made_of = (version.parent_id, version.upto_seq, version.corrections)
            is_same = made_of == (material.parent_id, material.upto_seq, material.corrections)
            if fitting is None and is_same and self._is_usable(version):
                fitting = version
                continue
            self._publisher.drop_candidate(
                version.id, reason="its run ended before the quality check"
            )
        return fitting

    def _is_usable(self, version: AdapterVersion) -> bool:
        try:
            self._versions.verify(version)
        except (DamagedFilesError, FilesUnavailableError):
            return False
        return version.base == self._updater.base

    def _learn(self, run_id: int, material: TrainingMaterial, stop: Stop) -> AdapterVersion | None:
        """Updates the model and registers the candidate; None if the update was stopped."""
        on_progress = ThrottledProgress(
            lambda share, eta: self._runs.report(
                run_id, stage="learning", progress=share, eta_s=eta
            )
        )
        self._runs.report(run_id, stage="learning")
        write = self._updater.update(
            material.new,
            material.earlier,
            start=material.start,
            on_progress=on_progress,
            stop=stop,
            seconds=REFINE_S if material.refines else None,
        )
        if write is None:
            return None
        origin = CandidateOrigin(
            project_id=material.project_id,
            parent_id=material.parent_id,
            upto_seq=material.upto_seq,
            corrections=material.corrections,
            base=self._updater.base,
            base_version=self._updater.base_version,
            code=self._code,
        )
        calibrated = _with_calibration(
            write,
            calibrate_project(
                self._versions, judged_regions(self._versions.store, material.project_id)
            ),
        )
        return self._versions.find(self._publisher.register(run_id, origin, calibrated))

    def _measure(
        self, run_id: int, material: TrainingMaterial, candidate: AdapterVersion
    ) -> GateEvidence:
        after = self._versions.verify(candidate)
        before = material.start
        sets = (material.held_out, material.earlier, material.new)
        counted = PassCounter(
            lambda share, eta: self._runs.report(
                run_id, stage="measuring", progress=share, eta_s=eta
            ),
            passes=2 + 2 * sum(map(bool, sets)),
        )

        def compare(tasks: Sequence[CorrectedTask]) -> QualityComparison | None:
            if not tasks:
                return None
            old = counted(self._updater.measure(before, tasks))
            return _pair(old, counted(self._updater.measure(after, tasks)))

        updater, corrected = self._updater, (*material.new, *material.earlier)
        return GateEvidence(
            held_out=compare(material.held_out),
            earlier=compare(_spread(material.earlier, MOST_JUDGED)),
            learned=compare(_spread(material.new, MOST_JUDGED)),
            probe=_pair(
                counted(updater.probe(before, corrected)), counted(updater.probe(after, corrected))
            ),
            agreement=updater.agreement(material.new, material.earlier) if material.new else None,
            old_labels=frozenset(
                part.label for task in material.earlier for part in true_parts(task.correction)
            ),
        )

    def _decide(
        self, run_id: int, candidate: AdapterVersion, evidence: GateEvidence, verdict: Verdict
    ) -> RunState:
        gate = gate_figures(evidence, verdict)
        act = self._publisher.publish if verdict.is_accepted else self._publisher.reject
        act(run_id, candidate.id, gate=gate, reason=verdict.reason)
        _log.info(
            "%s %s: %s",
            candidate.id,
            "published" if verdict.is_accepted else "rejected",
            verdict.reason,
            extra={
                "event": "version_published" if verdict.is_accepted else "version_rejected",
                "project": candidate.project_id,
                "version": candidate.id,
            },
        )
        return RunState.PUBLISHED if verdict.is_accepted else RunState.REJECTED


class ThrottledProgress:
    """Passes on at most one report per second: each report is a commit."""

    def __init__(self, report: OnProgress) -> None:
        self._report, self._last_s = report, -_REPORT_EVERY_S

    def __call__(self, share: float, eta_s: float | None) -> None:
        """Takes a report."""
        now_s = time.monotonic()
        if now_s - self._last_s >= _REPORT_EVERY_S:
            self._last_s = now_s
            self._report(share, eta_s)


class PassCounter:
    """Reports the progress of work that has about `passes` passes."""

    def __init__(self, report: OnProgress, passes: int) -> None:
        self._report, self._passes, self._done = report, passes, 0
        self._began_s = time.monotonic()

    def __call__(self, result: _T) -> _T:
        """Counts one finished pass and returns its result unchanged."""
        self._done = min(self._passes, self._done + 1)
        each_s = (time.monotonic() - self._began_s) / self._done
        self._report(self._done / self._passes, each_s * (self._passes - self._done))
        return result


def _with_calibration(write: WriteAdapter, calibration: Calibration) -> WriteAdapter:
    """Returns a function that writes the adapter, and its calibration unless it is the identity."""
    if calibration.is_identity:
        return write

    def write_both(folder: Path) -> None:
        write(folder)
        write_beside(folder, calibration)

    return write_both


def _spread(tasks: Sequence[CorrectedTask], most: int) -> Sequence[CorrectedTask]:
    """At most `most` tasks, evenly spread, the newest included."""
    step = max(1, -(-len(tasks) // most))
    return tasks[::-1][::step][::-1]


def _pair(before: Quality | None, after: Quality | None) -> QualityComparison | None:
    return None if before is None or after is None else QualityComparison(before, after)
