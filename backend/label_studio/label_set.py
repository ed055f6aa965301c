"""The labels a project allows, as Label Studio stores them, and what texts mean among them."""

from __future__ import annotations

from functools import lru_cache

from backend.types import LabelSchema, LabelValue
from calico_model.vocabulary import Vocabulary, match, normalise


def read_label(value: str | None, alias: str | None, predicted: str | None) -> LabelValue | None:
    """One `<Label>`, `<Choice>` or entry of a task's label list.

    The editor stores the alias instead of the value when there is one, so we do too; the value and
    the comma-separated `predicted_values` then mean the same label.
    """
    stored = alias or value
    if not stored:
        return None
    others = [value or "", *(predicted or "").split(",")]
    stripped = dict.fromkeys(other.strip() for other in others)
    return LabelValue(stored, tuple(other for other in stripped if other and other != stored))


def closed_labels(
    schema: LabelSchema, task_labels: tuple[LabelValue, ...] = ()
) -> tuple[LabelValue, ...]:
    """Returns the names a task's regions may have; () where any text may be written.

    Args:
        schema: of the project.
        task_labels: the task's own labels, which come after those of the config where it asks for
            them.
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
    return match(text, vocabulary_of(labels)) if normalise(text) else None


@lru_cache(maxsize=256)
def vocabulary_of(labels: tuple[LabelValue, ...]) -> Vocabulary:
    """Labels that differ after normalisation; of equal ones the first wins."""
    distinct: dict[str, str] = {}
    for label in labels:
        distinct.setdefault(normalise(label.value), label.value)
    distinct.pop("", None)
    known = set(distinct.values())
    aliases = {
        alias: label.value
        for label in reversed(labels)
        for alias in label.aliases
        if label.value in known and normalise(alias)
    }
    return Vocabulary(tuple(distinct.values()), aliases)
