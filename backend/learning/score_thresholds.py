"""Which scores of a label can be trusted: from which score on its regions were right.

Pure: rows in, values out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from backend.learning.correction import RegionChange
from backend.learning.rows import OutcomeRow
from calico_model.evaluation.metrics import IOU_THRESHOLD
from calico_model.vocabulary import Vocabulary, name_of

TRUSTED_SHARE = 0.9
"""Share of right regions from which on a score is trusted."""
_FEWEST = 5  # regions above a threshold that are enough to speak of it
_STEPS = tuple(step / 20 for step in range(1, 20))
_RENAMED = RegionChange.RELABELLED | RegionChange.KIND_CHANGED


def label_thresholds(
    rows: Iterable[OutcomeRow], vocabulary: Vocabulary | None = None
) -> dict[str, float]:
    """Returns the suggested threshold of each predicted label; labels without one are left out.

    Args:
        rows: of one project.
        vocabulary: its labels; other words for a label count as the label. None where any text may
            be written.

    Returns:
        By name of the label, see `name_of`.
    """
    judged: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for row in rows:
        if row.label_before is not None and row.score is not None:
            name = name_of(row.label_before, vocabulary)
            judged[name].append((row.score, is_right(row)))
    suggested = {label: suggest_threshold(pairs) for label, pairs in judged.items()}
    return {label: score for label, score in suggested.items() if score is not None}


def suggest_threshold(
    judged: Sequence[tuple[float, bool]], *, share: float = TRUSTED_SHARE
) -> float | None:
    """Returns the lowest score, in steps of 0.05, from which on enough regions were right.

    Args:
        judged: score in [0, 1] of each region, and whether it was right.
        share: of right regions that is enough.

    Returns:
        None if no score is enough, or too few regions have such a score.
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
