"""One training run, top to bottom: corrections in, a published or a rejected version out.

Knows the store and the order of things; what a model is, is behind `Updater`. Stopped or killed
anywhere, the next run starts over, or goes on at the gate if there was a candidate already.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from backend.errors import BackendError, DamagedAdapterError, LabelStudioError
from backend.learning.calibration import calibrate_project, judged_regions
from backend.learning.correction import Correction
from backend.learning.derivation import Derivation
from backend.learning.gate import (
    Agreement,
    Comparison,
    Evidence,
    GatePolicy,
    Quality,
    Verdict,
    judge,
    judge_refinement,
)
from backend.learning.held_out import held_out_tasks
from backend.learning.progress import OnProgress, Passes, Reports
from backend.learning.publisher import Origin, Publisher, quarantine
from backend.learning.reconcile import Reconciler
from backend.learning.repository import CorrectionRepository
from backend.learning.rows import Standing
from backend.learning.schedule import RunState
from backend.learning.supervision import known_kinds, true_parts
from backend.learning.training_runs import RunRepository
from backend.storage.versions import AdapterVersion, Versions, VersionStatus
from calico_model.errors import CalicoError
from calico_model.inference.confidence import Calibration, write_beside

_log = logging.getLogger(__name__)

# Of each kind, what one run looks at: its time must not grow with the project.
MOST_NEW, MOST_EARLIER, MOST_HELD_OUT = 64, 64, 40
MOST_JUDGED = 10  # new, and earlier, corrections that are measured
REFINE_S = 45.0  # of learning, where a first version takes less
_NOTHING_NAMED = "nothing to learn from: no new correction has a region with a name"

Write = Callable[[Path], object]
Stop = Callable[[], bool]


@dataclass(frozen=True, eq=False)
class CorrectedTask:
    """One task to learn from or to be measured on.

    Attributes:
        project_id: where it is.
        seq: its place in the journal.
        correction: what was corrected.
    """

    project_id: int
    seq: int
    correction: Correction


class Updater(Protocol):
    """What training needs of a model."""

    @property
    def base(self) -> str:
        """Fingerprint of the base weights."""

    @property
    def base_version(self) -> str:
        """What predictions of the bare base are stamped with."""

    def update(
        self,
        new: Sequence[CorrectedTask],
        earlier: Sequence[CorrectedTask],
        *,
        start: Path | None,
        on_progress: OnProgress,
        stop: Stop,
        seconds: float | None = None,
    ) -> Write | None:
        """Learns from corrections.

        Args:
            new: not learned from before.
            earlier: to rehearse.
            start: folder of the adapter to go on from, None for the base.
            on_progress: told the share that is done and the seconds that are left.
            stop: asked again and again; True ends the update.
            seconds: of learning; as planned if None.

        Returns:
            What writes the adapter into a folder, synced; None if it was stopped.
        """

    def measure(self, adapter: Path | None, tasks: Sequence[CorrectedTask]) -> Quality | None:
        """Measures an adapter, or the base, on tasks; None if none of them can be used."""

    def probe(self, adapter: Path | None, tasks: Sequence[CorrectedTask]) -> Quality | None:
        """Measures an adapter, or the base, on base data.

        None if there is none, or where nothing of it can be forgotten: the pictures of `tasks` are
        unlike it.
        """

    def agreement(
        self, new: Sequence[CorrectedTask], earlier: Sequence[CorrectedTask]
    ) -> Agreement | None:
        """Asks how far corrections can be predicted from each other; None if it cannot tell."""


@dataclass(frozen=True)
class _Material:
    """What one run works with."""

    project_id: int
    current: AdapterVersion | None
    start: Path | None
    new: tuple[CorrectedTask, ...]
    earlier: tuple[CorrectedTask, ...]
    held_out: tuple[CorrectedTask, ...]
    upto_seq: int
    corrections: int
    refines: bool


class TrainingSession:
    """Runs trainings of one store.

    Args:
        repository: where the corrections are.
        derivation: keeps them up to date.
        reconciler: finds lost events first, or None without an API key.
        versions: of all projects.
        runs: of this trainer.
        updater: the model.
        policy: of the gate.
        start_from: project whose version a project without one of its own goes on from, or None.
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
            project_id: what to train.
            run_id: the claim.
            stop: True ends it soon, without a decision.
            refines: goes on learning what the current version knows.

        Returns:
            How it ended; failures are raised and leave the run open.

        Raises:
            BackendError, CalicoError: it failed.
            LeaseLostError: somebody else goes on with it.
        """
        if not refines:
            self._runs.report(run_id, stage="comparing with Label Studio")
            self._reconcile(project_id)
            self._derivation.derive(project_id)
        material = self._gather(project_id, refines=refines)
        self._runs.note(run_id, upto_seq=material.upto_seq)
        asked = material.earlier if refines else material.new
        if not asked:
            return self._end(run_id, "there is nothing new to learn from")
        if not any(known_kinds(one.correction) for one in asked):
            # Not stopped: learning from the same again would be the same again.
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
            # An adapter that cannot even be loaded, of numbers that are none, say.
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
            # What is known already is worth learning; the watch beside the requests tries again.
            _log.warning(
                "project %s: training without asking Label Studio: %s",
                project_id,
                error,
                extra={"event": "reconcile_failed", "project": project_id},
            )

    def _gather(self, project_id: int, *, refines: bool) -> _Material:
        current, start = self._starting_version(project_id)
        every = self._repository.tasks(project_id)
        rows = [row for row in every if row.standing is Standing.CORRECTED]
        rows.sort(key=lambda row: row.seq)
        kept = held_out_tasks(project_id, every)
        held_out = [row.seq for row in rows if row.task_id in kept]
        usable = [row.seq for row in rows if row.task_id not in kept]
        is_own = current is not None and start is not None and current.project_id == project_id
        seen = current.upto_seq if current is not None and is_own else -1
        earlier = [seq for seq in usable if seq <= seen]
        # The oldest first: what does not fit is what the next run begins with.
        new = [] if refines else [seq for seq in usable if seq > seen][:MOST_NEW]
        if refines:
            usable = earlier
        is_all = len(earlier) + len(new) == len(usable)
        upto_seq = rows[-1].seq if rows and is_all else max(new, default=-1)
        if refines:
            upto_seq = seen
        wanted = {*new, *earlier[-MOST_EARLIER:], *held_out[-MOST_HELD_OUT:]}
        loaded: dict[int, CorrectedTask] = {}
        for row in rows:
            if row.seq not in wanted:
                continue
            correction = self._derivation.load(project_id, row.task_id)
            if correction is not None:
                loaded[row.seq] = CorrectedTask(project_id, row.seq, correction)
        return _Material(
            project_id,
            current,
            start,
            tuple(loaded[seq] for seq in new if seq in loaded),
            tuple(loaded[seq] for seq in earlier if seq in loaded),
            tuple(loaded[seq] for seq in held_out if seq in loaded),
            upto_seq=upto_seq,
            corrections=len(earlier) + len(new),
            refines=refines,
        )

    def _starting_version(self, project_id: int) -> tuple[AdapterVersion | None, Path | None]:
        """The version to be compared with, and its folder; None for the base."""
        while True:
            current = self._versions.served(project_id, start_from=self._start_from)
            if current is None:
                return None, None
            if current.base != self._updater.base:
                # Other weights than it was made for: learn anew, from everything.
                return current, None
            try:
                return current, self._versions.verify(current)
            except DamagedAdapterError as error:
                _log.error("%s", error, extra={"event": "adapter_damaged", "version": current.id})
                quarantine(self._versions, current, reason=str(error))

    def _left_candidate(self, material: _Material) -> AdapterVersion | None:
        """A candidate that an earlier run made of exactly this material."""
        parent_id = None if material.current is None else material.current.id
        fitting = None
        for version in self._versions.all(material.project_id):
            if version.status is not VersionStatus.CANDIDATE:
                continue
            made_of = (version.parent_id, version.upto_seq, version.corrections)
            is_same = made_of == (parent_id, material.upto_seq, material.corrections)
            if fitting is None and is_same and self._is_usable(version):
                fitting = version
                continue
            self._publisher.drop_candidate(version.id, reason="its run ended before the gate")
        return fitting

    def _is_usable(self, version: AdapterVersion) -> bool:
        try:
            self._versions.verify(version)
        except DamagedAdapterError:
            return False
        return version.base == self._updater.base

    def _learn(self, run_id: int, material: _Material, stop: Stop) -> AdapterVersion | None:
        report = Reports(
            lambda share, eta: self._runs.report(
                run_id, stage="learning", progress=share, eta_s=eta
            )
        )
        self._runs.report(run_id, stage="learning")
        write = self._updater.update(
            material.new,
            material.earlier,
            start=material.start,
            on_progress=report,
            stop=stop,
            seconds=REFINE_S if material.refines else None,
        )
        if write is None:
            return None
        origin = Origin(
            project_id=material.project_id,
            parent_id=None if material.current is None else material.current.id,
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

    def _measure(self, run_id: int, material: _Material, candidate: AdapterVersion) -> Evidence:
        after = self._versions.verify(candidate)
        before = material.start
        sets = (material.held_out, material.earlier, material.new)
        tell = Passes(
            lambda share, eta: self._runs.report(
                run_id, stage="measuring", progress=share, eta_s=eta
            ),
            passes=2 + 2 * sum(map(bool, sets)),
        )

        def compare(tasks: Sequence[CorrectedTask]) -> Comparison | None:
            if not tasks:
                return None
            old = tell(self._updater.measure(before, tasks))
            return _pair(old, tell(self._updater.measure(after, tasks)))

        updater, corrected = self._updater, (*material.new, *material.earlier)
        return Evidence(
            held_out=compare(material.held_out),
            earlier=compare(_spread(material.earlier, MOST_JUDGED)),
            learned=compare(_spread(material.new, MOST_JUDGED)),
            probe=_pair(
                tell(updater.probe(before, corrected)), tell(updater.probe(after, corrected))
            ),
            agreement=updater.agreement(material.new, material.earlier) if material.new else None,
            old_labels=frozenset(
                part.label for task in material.earlier for part in true_parts(task.correction)
            ),
        )

    def _decide(
        self, run_id: int, candidate: AdapterVersion, evidence: Evidence, verdict: Verdict
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


def _with_calibration(write: Write, calibration: Calibration) -> Write:
    """What also writes a calibration, unless it changes nothing."""
    if calibration.is_identity:
        return write

    def both(folder: Path) -> None:
        write(folder)
        write_beside(folder, calibration)

    return both


def gate_figures(evidence: Evidence, verdict: Verdict) -> dict[str, Any]:
    """What the gate saw, as JSON keeps it: set -> [before, after] of each metric, in percent."""
    figures: dict[str, Any] = {"provisional": verdict.is_provisional}
    for name in ("held_out", "earlier", "learned", "probe"):
        pair: Comparison | None = getattr(evidence, name)
        if pair is None or not (pair.before.is_finite and pair.after.is_finite):
            continue
        figures[name] = {
            "mIoU": [round(pair.before.miou, 2), round(pair.after.miou, 2)],
            "Recall": [round(pair.before.recall, 2), round(pair.after.recall, 2)],
            "groups": pair.after.groups,
        }
    if (found := evidence.agreement) is not None:
        figures["agreement"] = {"new": round(100 * found.new, 1), "regions": found.asked}
    return figures


def _spread(tasks: Sequence[CorrectedTask], most: int) -> Sequence[CorrectedTask]:
    """At most so many tasks, from the first to the last."""
    step = max(1, -(-len(tasks) // most))
    return tasks[::-1][::step][::-1]


def _pair(before: Quality | None, after: Quality | None) -> Comparison | None:
    return None if before is None or after is None else Comparison(before, after)


FAILURES = (BackendError, CalicoError, OSError, MemoryError)
"""What may end a run without being a fault of this code."""
