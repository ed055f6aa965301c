"""Doubts: annotations that Label Studio contradicts, and when a contradiction is believed.

Pure: values in, values out, the time included.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from backend.learning.rows import Doubt, LiveHead
from backend.types import Event

CONFIRM_AFTER_S = 600.0
"""An annotation must be missing for so long before its deletion is journalled."""
MOST_SHARE = 0.1
"""At most this share of a project's annotations, but at least one, is deleted at once."""


@dataclass(frozen=True)
class Contradiction:
    """A head that Label Studio contradicts: its annotation is missing, or in an older state.

    Attributes:
        head: newest state of the annotation in the journal.
        task_id: its task.
        event: the event to journal if the contradiction is confirmed.
        seen: key of the older state that Label Studio shows, "" if the annotation is missing.
    """

    head: LiveHead
    task_id: int
    event: Event
    seen: str = ""


def is_too_much(count: int, live: int) -> bool:
    """Whether so many deletions at once need approval by a person.

    An empty list, another server or an older backup looks like many deletions. Deletions of all
    annotations of a project always need approval.

    Args:
        count: deletions and returns to older states.
        live: annotations of the project that are not deleted.
    """
    return count >= max(live, 1) or count > max(1, int(live * MOST_SHARE))


def weigh(
    contradictions: Sequence[Contradiction],
    doubts: Mapping[int, Doubt],
    heads: Mapping[int, LiveHead],
    *,
    compared: Collection[int],
    now_us: int,
    confirm_after_us: int,
    is_approved: bool,
) -> tuple[dict[int, Doubt], list[Contradiction]]:
    """Decides which contradictions are confirmed.

    Args:
        contradictions: of one comparison.
        doubts: by annotation id, from earlier comparisons.
        heads: by annotation id.
        compared: ids of the annotations whose tasks were compared.
        now_us: the time, in microseconds since 1970 UTC.
        confirm_after_us: how long a contradiction must last.
        is_approved: a person has confirmed all contradictions.

    Returns:
        By annotation id the doubts of now, those of the confirmed contradictions included; and the
        confirmed contradictions.
    """
    pending = {
        annotation_id: doubt
        for annotation_id, doubt in doubts.items()
        if annotation_id not in compared and _still_holds(doubt, heads.get(annotation_id))
    }
    confirmed = []
    for contradiction in contradictions:
        head, seen = contradiction.head, contradiction.seen
        known = doubts.get(head.annotation_id)
        is_same = known is not None and known.seen == seen and _still_holds(known, head)
        first_us = known.first_seen_us if known is not None and is_same else now_us
        pending[head.annotation_id] = Doubt(
            head.annotation_id, contradiction.task_id, head.key, seen, first_us
        )
        if is_approved or (is_same and now_us - first_us >= confirm_after_us):
            confirmed.append(contradiction)
    is_believed = is_approved or not is_too_much(len(pending), count_live(heads.values()))
    return pending, confirmed if is_believed else []


def count_live(heads: Iterable[LiveHead]) -> int:
    """Number of annotations that are not deleted."""
    return sum(not head.is_deleted for head in heads)


def _still_holds(doubt: Doubt, head: LiveHead | None) -> bool:
    """Whether a doubt is about the newest state in the journal."""
    return head is not None and not head.is_deleted and head.key == doubt.head_key
