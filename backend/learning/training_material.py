"""What one training run learns from and is measured on: corrections of one project.

Each set has an upper bound, so that the time of a run does not grow with the project.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backend.learning.correction import Correction
from backend.learning.derivation import Derivation
from backend.learning.repository import CorrectionRepository
from backend.learning.rows import Standing
from backend.learning.schedule import held_out_tasks
from backend.storage.versions import AdapterVersion

MOST_NEW, MOST_EARLIER, MOST_HELD_OUT = 64, 64, 40


@dataclass(frozen=True, eq=False)
class CorrectedTask:
    """One task to learn from or to be measured on.

    Attributes:
        project_id: Label Studio's project id.
        seq: place of the task's newest event in the journal.
        correction: the correction with its masks.
    """

    project_id: int
    seq: int
    correction: Correction


@dataclass(frozen=True)
class TrainingMaterial:
    """The corrections of one run and the version the run goes on from.

    Attributes:
        project_id: Label Studio's project id.
        current: the version that is served now, None for the base.
        start: folder of the adapter to go on from, None for the base.
        new: corrections that `current` has not learned, the oldest first.
        earlier: corrections that `current` has learned, to rehearse.
        held_out: corrections that are only measured on.
        upto_seq: newest place in the journal that the candidate will have read.
        corrections: number of tasks that the candidate will have learned, its ancestors included.
        refines: the run goes on learning `earlier`; `new` is empty then.
    """

    project_id: int
    current: AdapterVersion | None
    start: Path | None
    new: tuple[CorrectedTask, ...]
    earlier: tuple[CorrectedTask, ...]
    held_out: tuple[CorrectedTask, ...]
    upto_seq: int
    corrections: int
    refines: bool

    @property
    def parent_id(self) -> str | None:
        """Id of the current version, None for the base."""
        return None if self.current is None else self.current.id


def gather_material(
    repository: CorrectionRepository,
    derivation: Derivation,
    project_id: int,
    current: AdapterVersion | None,
    start: Path | None,
    *,
    refines: bool,
) -> TrainingMaterial:
    """Chooses and loads the corrections of one run.

    Args:
        repository: the derived state of all tasks.
        derivation: loads a correction with its masks.
        project_id: Label Studio's project id.
        current: the version that is served now, None for the base.
        start: folder of the adapter to go on from, None for the base.
        refines: learn again what `current` has learned, and nothing new.

    Raises:
        StoreError: the database cannot be read.
        LabelStudioError: what a correction started from is unknown and cannot be fetched.
    """
    tasks = repository.tasks(project_id)
    rows = [row for row in tasks if row.standing is Standing.CORRECTED]
    rows.sort(key=lambda row: row.seq)
    held_out_ids = held_out_tasks(project_id, tasks)
    held_out = [row.seq for row in rows if row.task_id in held_out_ids]
    usable = [row.seq for row in rows if row.task_id not in held_out_ids]
    is_own = current is not None and start is not None and current.project_id == project_id
    learned_seq = current.upto_seq if current is not None and is_own else -1
    earlier = [seq for seq in usable if seq <= learned_seq]
    # The oldest first: the next run begins with the corrections that do not fit.
    new = [] if refines else [seq for seq in usable if seq > learned_seq][:MOST_NEW]
    if refines:
        usable = earlier
    is_all = len(earlier) + len(new) == len(usable)
    upto_seq = rows[-1].seq if rows and is_all else max(new, default=-1)
    if refines:
        upto_seq = learned_seq
    wanted = {*new, *earlier[-MOST_EARLIER:], *held_out[-MOST_HELD_OUT:]}
    loaded: dict[int, CorrectedTask] = {}
    for row in rows:
        if row.seq not in wanted:
            continue
        correction = derivation.load(project_id, row.task_id)
        if correction is not None:
            loaded[row.seq] = CorrectedTask(project_id, row.seq, correction)
    return TrainingMaterial(
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
