"""What annotators did to the predicted regions of each label, and which scores can be trusted.

Pure: rows in, values out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from backend.learning.correction import RegionChange
from backend.learning.rows import OutcomeRow
from calico_model.evaluation.metrics import IOU_THRESHOLD

TRUSTED_SHARE = 0.9
"""Share of right regions from which on a score is trusted."""
_FEWEST = 5  # regions above a threshold that are enough to speak of it
_STEPS = tuple(step / 20 for step in range(1, 20))
_RENAMED = RegionChange.RELABELLED | RegionChange.KIND_CHANGED


@dataclass(frozen=True)
class LabelQuality:
    """Outcomes of one label. A region may be reshaped and renamed.

    Attributes:
        label: as predicted; of added regions as the annotator wrote it.
        predicted: regions that were predicted with it.
        accepted: left as they were.
        reshaped: given another mask.
        renamed: given another name or kind.
        removed: taken away.
        added: drawn by annotators where the label was not predicted.
        threshold: lowest score from which on at least 90 % of the regions were right (name and
            kind kept, IoU of at least 0.5); None if there is none, or too few regions.
    """

    label: str
    predicted: int
    accepted: int
    reshaped: int
    renamed: int
    removed: int
    added: int
    threshold: float | None


def label_qualities(rows: Iterable[OutcomeRow]) -> tuple[LabelQuality, ...]:
    """Returns one entry per label, those with the most work for annotators first."""
    before: dict[str, list[OutcomeRow]] = defaultdict(list)
    added: dict[str, int] = defaultdict(int)
    for row in rows:
        if RegionChange.ADDED in row.change:
            added[row.label_after or ""] += 1
        else:
            before[row.label_before or ""].append(row)
    qualities = [_quality(label, before[label], added[label]) for label in {*before, *added}]
    return tuple(sorted(qualities, key=lambda one: one.accepted - one.predicted - one.added))


def suggest_threshold(
    judged: Sequence[tuple[float, bool]], *, share: float = TRUSTED_SHARE
) -> float | None:
    """Returns the lowest score, in steps of 0.05, from which on enough regions were right.

    Args:
        judged: score in [0, 1] of each region, and whether it was right.
        share: of right regions that is enough.
    """
    for step in _STEPS:
        above = [is_right for score, is_right in judged if score >= step]
        if len(above) < _FEWEST:
            return None
        if sum(above) >= share * len(above):
            return step
    return None


def is_right(row: OutcomeRow) -> bool:
    """Whether an annotator kept the name and kind of a predicted region and most of its mask."""
    if row.change & (RegionChange.REMOVED | _RENAMED):
        return False
    return RegionChange.RESHAPED not in row.change or (row.iou or 0.0) >= IOU_THRESHOLD


def _quality(label: str, rows: Sequence[OutcomeRow], added: int) -> LabelQuality:
    return LabelQuality(
        label,
        predicted=len(rows),
        accepted=sum(not row.change for row in rows),
        reshaped=sum(RegionChange.RESHAPED in row.change for row in rows),
        renamed=sum(bool(row.change & _RENAMED) for row in rows),
        removed=sum(RegionChange.REMOVED in row.change for row in rows),
        added=added,
        threshold=suggest_threshold(
            [(row.score, is_right(row)) for row in rows if row.score is not None]
        ),
    )
