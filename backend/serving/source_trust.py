"""Whom a request believes among the sources, and what it leaves for learning.

What was learned is read from memory; what the sources answer is queued. Neither waits for the
database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backend.serving.source_pool import SourcePool
from backend.storage.source_trust import (
    RecordedAnswer,
    SourceAnswerStore,
    TrustCache,
    question_hash,
)
from backend.types import Task
from calico_model.sources.consensus import SourceProposal
from calico_model.sources.source import Ability
from calico_model.sources.trust import TrustTable
from calico_model.vocabulary import Vocabulary, name_of


@dataclass(frozen=True, eq=False)
class TaskTrust:
    """Trust in the sources for the questions about one task.

    Attributes:
        table: of the task's project.
        task: the task; None records nothing.
        vocabulary: the labels that regions may have; None where any text may be written.
        answers: where the sources' answers are recorded; None records nothing.
    """

    table: TrustTable
    task: Task | None = None
    vocabulary: Vocabulary | None = None
    answers: SourceAnswerStore | None = None

    @property
    def state(self) -> str:
        """Part of the key of every cached answer that depends on the trust."""
        return self.table.state

    def name_of(self, label: str | None) -> str | None:
        """Returns the name under which a label is believed; None without a label."""
        return name_of(label, self.vocabulary) if label else None

    def record(
        self,
        image_index: int,
        ability: Ability,
        question: object,
        size_hw: tuple[int, int],
        *,
        asked: Sequence[str],
        labels: Sequence[str],
        proposals: Sequence[SourceProposal],
    ) -> None:
        """Leaves an answer of the sources for learning.

        Args:
            image_index: 0-based position of the image in the task.
            ability: kind of the question.
            question: what makes it the same question; a later answer replaces the earlier one.
            size_hw: (height, width) of the image in pixels.
            asked: sources that answered.
            labels: names that were asked for, as annotators write them.
            proposals: their masks.
        """
        task = self.task
        if self.answers is None or task is None or task.project_id is None or task.id is None:
            return
        answer = RecordedAnswer(
            project_id=task.project_id,
            task_id=task.id,
            image_index=image_index,
            ability=ability,
            question=question_hash(question),
            size_hw=size_hw,
            asked=tuple(asked),
            labels=tuple(labels),
            proposals=tuple(proposals),
        )
        self.answers.record(answer)


NOBODY_JUDGED = TaskTrust(TrustTable())
"""Where nothing was learned: all sources are believed alike, and nothing is recorded."""


class SourceTrustReader:
    """The trust of every project, for requests. Threads may share it.

    Args:
        answers: of the database.
    """

    def __init__(self, answers: SourceAnswerStore) -> None:
        self._answers, self._cache = answers, TrustCache(answers)

    def of(self, task: Task, vocabulary: Vocabulary | None) -> TaskTrust:
        """Returns the trust for the questions about one task."""
        return TaskTrust(self._cache.of(task.project_id), task, vocabulary, self._answers)


def trust_in(
    sources: SourcePool | None,
    reader: SourceTrustReader | None,
    task: Task,
    vocabulary: Vocabulary | None,
) -> TaskTrust:
    """Returns which sources to believe about a task; without sources the database is not asked."""
    if not sources or reader is None:
        return NOBODY_JUDGED
    return reader.of(task, vocabulary)
