"""The labels a project allows, as Label Studio stores them, and which label a text means."""

from __future__ import annotations

from functools import lru_cache

from backend.label_schema import LabelSchema, LabelValue
from calico_model.vocabulary import Vocabulary, identity, match


def read_label(value: str | None, alias: str | None, predicted: str | None) -> LabelValue | None:
    """Reads one `<Label>`, `<Choice>` or entry of a task's label list; None for an empty one.

    Like the editor, the label is stored by its alias if it has one. The value and the
    comma-separated `predicted_values` then are further texts for the same label.
    """
    stored = alias or value
    if not stored or not stored.strip():
        return None
    others = [value or "", *(predicted or "").split(",")]
    stripped = dict.fromkeys(other.strip() for other in others)
    return LabelValue(stored, tuple(other for other in stripped if other and other != stored))


def closed_labels(
    schema: LabelSchema, task_labels: tuple[LabelValue, ...] = ()
) -> tuple[LabelValue, ...]:
    """Returns the names a task's regions may have; () if any text is allowed.

    Args:
        schema: of the project.
        task_labels: the task's own labels; they follow those of the config if it refers to them.
    """
    if schema.name is None:
        return ()
    if schema.name.task_field is None:
        return schema.name.values
    known = {label.value for label in schema.name.values}
    return (*schema.name.values, *(label for label in task_labels if label.value not in known))


def match_label(text: str, labels: tuple[LabelValue, ...]) -> str | None:
    """Returns the label of a closed set that a text means, as Label Studio stores it, or None."""
    if any(label.value == text for label in labels):
        return text
    return match(text, vocabulary_of(labels)) if text.strip() else None


def vocabulary_in(schema: LabelSchema, task_labels: tuple[LabelValue, ...]) -> Vocabulary | None:
    """Returns the closed label set of a task; None if any text is allowed."""
    labels = closed_labels(schema, task_labels)
    return vocabulary_of(labels) if labels else None


@lru_cache(maxsize=256)
def vocabulary_of(labels: tuple[LabelValue, ...]) -> Vocabulary:
    """Returns the vocabulary of a closed set; an alias means the first label that has it."""
    distinct: dict[str, str] = {}
    for label in labels:
        distinct.setdefault(identity(label.value), label.value)
    distinct.pop("", None)
    aliases = {
        alias: distinct[identity(label.value)]
        for label in reversed(labels)
        for alias in label.aliases
        if identity(label.value) in distinct and identity(alias)
    }
    return Vocabulary(tuple(distinct.values()), aliases)
