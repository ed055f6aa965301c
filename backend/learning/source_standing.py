"""How far each source is believed in a project, as rows for pages, /status and commands."""

from __future__ import annotations

from dataclasses import dataclass

from backend.storage.source_trust import SourceAnswerStore
from calico_model.sources.trust import TrustKey
from calico_model.vocabulary import Vocabulary


@dataclass(frozen=True)
class SourceStanding:
    """Trust in one source about one label, in one kind of question.

    Attributes:
        label: as the project writes it.
        question: what the source was asked by: "click", "box", "text" or "exemplar".
        source: its name.
        trust: expected IoU of its next mask with what the annotator accepts, in (0, 1).
        given: its masks that corrections judged.
        kept: of these, with IoU >= 0.5.
        regions: accepted regions that it was asked for.
        is_silent: its masks of this label are left out.
    """

    label: str
    question: str
    source: str
    trust: float
    given: int
    kept: int
    regions: int
    is_silent: bool


def read_source_standings(
    answers: SourceAnswerStore, project_id: int, vocabulary: Vocabulary | None
) -> tuple[SourceStanding, ...]:
    """Returns the standing of every source that was judged, by label and question, best first.

    Args:
        answers: of the database.
        project_id: Label Studio's project id.
        vocabulary: the project's labels; None where any text may be written.

    Raises:
        StoreError: the database cannot be read.
    """
    table = answers.trust(project_id)
    labels = {} if vocabulary is None else {name: key for key, name in vocabulary.names.items()}

    def standing(key: TrustKey) -> SourceStanding:
        counts, belief = table.counts[key], table.of(*key)
        return SourceStanding(
            label=labels.get(key.label, key.label),
            question=key.ability.value,
            source=key.source,
            trust=belief.trust,
            given=counts.proposals,
            kept=counts.kept,
            regions=counts.regions,
            is_silent=belief.is_silent,
        )

    rows = map(standing, table.counts)
    return tuple(sorted(rows, key=lambda one: (one.label, one.question, -one.trust, one.source)))
