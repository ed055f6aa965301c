"""How each label fares: drawn well, found, and called by its name.

Reads strict units of one subtask; a label with few true regions is left out, because one region
more or less would turn its figures over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calico_model.evaluation.metrics import IOU_THRESHOLD, Unit
from calico_model.vocabulary import normalise

LEAST_SUPPORT = 5


@dataclass(frozen=True)
class LabelScore:
    """How one label fares in one subtask, in percent.

    Attributes:
        support: true regions of that label.
        miou: mean IoU with the region of the same label; 0 where there is none.
        recall: found with IoU >= 0.5, whatever the name.
        named: of the found ones, those with the right name; NaN if none was found.
    """

    support: int
    miou: float
    recall: float
    named: float


def score_labels(scored: Sequence[Unit]) -> dict[str, LabelScore]:
    """Scores every label of sufficient support over strict units, most frequent first."""
    rows: dict[str, list[tuple[float, bool, bool]]] = defaultdict(list)  # IoU, found, named
    for u in scored:
        drawn = {t: p for p, t in u.matched}
        named = {t: p for p, t in u.paired}
        for t, label in enumerate(u.truth_labels):
            found = t in drawn and bool(u.iou[drawn[t], t] >= IOU_THRESHOLD)
            right = found and bool(u.same_label[drawn[t], t])
            overlap = float(u.iou[named[t], t]) if t in named else 0.0
            rows[normalise(label)].append((overlap, found, right))
    ranked = sorted(rows.items(), key=lambda item: (-len(item[1]), item[0]))
    return {label: _sum_up(seen) for label, seen in ranked if len(seen) >= LEAST_SUPPORT}


def _sum_up(seen: Sequence[tuple[float, bool, bool]]) -> LabelScore:
    overlaps, found, right = np.array(seen, dtype=np.float64).sum(axis=0)
    return LabelScore(
        support=len(seen),
        miou=100 * float(overlaps) / len(seen),
        recall=100 * float(found) / len(seen),
        named=100 * float(right / found) if found else float("nan"),
    )
