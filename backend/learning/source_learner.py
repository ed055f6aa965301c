"""Judges what sources answered by what annotators left, task by task.

Runs where corrections are derived, so no prediction waits for it. A judgement depends on the task's
correction and on the recorded answers alone: judging again, in any process, gives the same row.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import or_, select

from backend.errors import LabelStudioError
from backend.learning.correction import Correction
from backend.learning.derivation import Derivation
from backend.learning.rows import Standing
from backend.storage.source_trust import RecordedAnswer, SourceAnswerStore
from backend.storage.store import Store
from backend.storage.tables import correction as correction_table
from backend.storage.tables import event_log, source_answer, source_judgement
from calico_model.sources.consensus import SourceProposal
from calico_model.sources.judging import AcceptedRegion, judge_names, judge_prompt
from calico_model.sources.source import Ability
from calico_model.sources.trust import TrustCounts, TrustKey, add_counts
from calico_model.vocabulary import name_of

_log = logging.getLogger(__name__)
_PROMPTED = frozenset({Ability.CLICK, Ability.BOX})


@dataclass(frozen=True)
class _CorrectedTask:
    """State of a task's correction, and when its newest event was received, in microseconds."""

    state: str
    received_us: int


class SourceLearner:
    """Keeps the judgements of a store up to date.

    Args:
        store: the database.
        derivation: of the same database; has derived a project before `learn` is called for it.
    """

    def __init__(self, store: Store, derivation: Derivation) -> None:
        self._store, self._derivation = store, derivation
        self._answers = SourceAnswerStore(store)

    def learn(self, project_id: int) -> int:
        """Judges the tasks of a project whose correction or answers are new.

        Returns:
            Number of judged tasks.

        Raises:
            StoreError: the database cannot be read or written.
            BusyError: the database is too slow; judged tasks stay written.
        """
        # In this order: answers that another server drops meanwhile are not judged again.
        judged = self._answers.judged(project_id)
        answered = self._answers.answered(project_id)
        if not answered and not judged:
            return 0
        corrected = self._corrected(project_id)
        self._answers.forget(project_id, judged.keys() - corrected.keys())
        done = 0
        for task_id, times in answered.items():
            task = corrected.get(task_id)
            if task is None:
                continue
            # What was asked after the annotation was submitted is judged by the next one.
            before = tuple(time_us for time_us in times if time_us <= task.received_us)
            state = hashlib.sha256(f"{task.state} {before}".encode()).hexdigest()
            if not before or judged.get(task_id) == state:
                continue
            counts = self._judge(project_id, task_id, task.received_us)
            if counts is not None:
                self._answers.judge(project_id, task_id, state, counts)
                done += 1
        self._answers.drop_old(project_id)
        return done

    def _corrected(self, project_id: int) -> Mapping[int, _CorrectedTask]:
        columns = correction_table.c
        asked = [
            select(table.c.task_id).where(table.c.project_id == project_id)
            for table in (source_answer, source_judgement)
        ]
        query = (
            select(columns.task_id, columns.state, event_log.c.received_at_us)
            .join(event_log, event_log.c.seq == columns.seq)
            .where(
                columns.project_id == project_id,
                columns.outcome == Standing.CORRECTED.value,
                or_(*(columns.task_id.in_(tasks) for tasks in asked)),
            )
        )
        with self._store.read() as connection:
            return {
                task_id: _CorrectedTask(state, received_us)
                for task_id, state, received_us in connection.execute(query)
            }

    def _judge(
        self, project_id: int, task_id: int, received_us: int
    ) -> Mapping[TrustKey, TrustCounts] | None:
        """Judges the answers about one task; None if they cannot be loaded now."""
        about = {"event": "sources_not_judged", "project": project_id, "task": task_id}
        try:
            correction = self._derivation.load(project_id, task_id)
        except LabelStudioError as error:
            _log.warning("sources of task %s wait: %s", task_id, error, extra=about)
            return None
        if correction is None:
            return None
        recorded = self._answers.answers(project_id, task_id)
        before = [one for one in recorded if one.made_at_us <= received_us]
        return judge_task(correction, before) if before else None


def judge_task(
    correction: Correction, recorded: Sequence[RecordedAnswer]
) -> Mapping[TrustKey, TrustCounts]:
    """Returns what a correction says about the answers of the sources.

    Nothing is learned of names that the annotation has in a form that cannot be read as a mask.

    Args:
        correction: of one task.
        recorded: answers about its images.
    """
    parts = []
    for answer in recorded:
        unread = {label for index, label in correction.unknown if index == answer.image_index}
        accepted = _accepted(correction, answer)
        if None in unread or accepted is None:
            continue
        vocabulary = correction.vocabulary
        labels = {name_of(label, vocabulary) for label in answer.labels}
        labels -= {name_of(label, vocabulary) for label in unread if label is not None}
        if answer.ability in _PROMPTED:
            label = next(iter(labels)) if len(labels) == 1 else None
            best = _best_of_each(answer.proposals)
            parts.append(judge_prompt(best, accepted, ability=answer.ability, label=label))
        else:
            named = [
                replace(one, label=name_of(one.label, vocabulary))
                for one in answer.proposals
                if one.label is not None
            ]
            counts = judge_names(
                named, accepted, sources=answer.asked, labels=labels, ability=answer.ability
            )
            parts.append(counts)
    return add_counts(parts)


def _accepted(correction: Correction, answer: RecordedAnswer) -> tuple[AcceptedRegion, ...] | None:
    """What the annotator left in the image of an answer; None if the image has another size now."""
    regions = []
    for outcome in correction.outcomes:
        region = outcome.after
        if region is None or region.image_index != answer.image_index:
            continue
        if region.size_hw != answer.size_hw:
            return None
        for label in region.labels:
            name = name_of(label, correction.vocabulary)
            regions.append(AcceptedRegion(name, region.mask))
    return tuple(regions)


def _best_of_each(proposals: Sequence[SourceProposal]) -> tuple[SourceProposal, ...]:
    """The mask of each source that the source itself is surest of."""
    best: dict[str, SourceProposal] = {}
    for one in proposals:
        if one.source not in best or one.score > best[one.source].score:
            best[one.source] = one
    return tuple(best.values())
