"""What a prediction saves the person who corrects it: kept, edited, clicked, renamed.

The truth stands for the final annotation. Regions are matched by overlap, within one image of one
subtask. Works on strict units, and on the crops behind them for what needs pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from calico_model.evaluation.clicks import TARGETS, clicks_to, ideal_curve
from calico_model.evaluation.metrics import IOU_THRESHOLD, Tally, Unit
from calico_model.evaluation.regions import CroppedRegion

KEPT_IOU = 0.9
COUNTS = ("added", "deleted", "relabeled", "redrawn")
TALLIES = ("accept_rate", "label_clicks_saved", *COUNTS)
CLICKS = tuple(f"NoC@{target}" for target in TARGETS)


@dataclass(frozen=True)
class CorrectionEffort:
    """The correction of one image of one subtask.

    Attributes:
        tallies: name -> (part, whole); `COUNTS` have a whole of 0, the group is their whole.
        edit_ratios: per matched proposal, pixels changed over pixels of the final region.
        clicks: per final region, how many ideal clicks reach each target, missing regions from
            nothing.
        outcomes: per proposal, its score and whether it was right (IoU >= 0.5 and same label).
    """

    tallies: dict[str, Tally]
    edit_ratios: tuple[float, ...]
    clicks: dict[str, tuple[int, ...]]
    outcomes: tuple[tuple[float, bool], ...]


def measure_effort(
    unit: Unit, predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion]
) -> CorrectionEffort:
    """Compares proposals with the final regions.

    Args:
        unit: the strict unit of the image.
        predicted: the merged regions behind its rows.
        truth: the regions behind its columns.
    """
    pairs = unit.matched
    renamed = [(p, t) for p, t in pairs if not unit.same_label[p, t]]
    redrawn = [(p, t) for p, t in pairs if unit.iou[p, t] < KEPT_IOU]
    kept = len(set(pairs) - set(renamed) - set(redrawn))
    proposals = {t: predicted[p].mask for p, t in pairs}
    curves = [ideal_curve(proposals.get(t), region.mask) for t, region in enumerate(truth)]
    changed = [
        (unit.predicted_area[p] + unit.truth_area[t] - 2 * unit.intersection[p, t])
        / unit.truth_area[t]
        for p, t in pairs
    ]
    right = {p for p, t in pairs if unit.iou[p, t] >= IOU_THRESHOLD and unit.same_label[p, t]}
    return CorrectionEffort(
        tallies={
            "accept_rate": (kept, len(predicted)),
            "label_clicks_saved": (len(pairs) - len(renamed), len(truth)),
            "added": (len(truth) - len(pairs), 0.0),
            "deleted": (len(predicted) - len(pairs), 0.0),
            "relabeled": (len(renamed), 0.0),
            "redrawn": (len(redrawn), 0.0),
        },
        edit_ratios=tuple(float(ratio) for ratio in changed),
        clicks={
            f"NoC@{target}": tuple(clicks_to(target / 100, curve) for curve in curves)
            for target in TARGETS
        },
        outcomes=tuple((float(score), p in right) for p, score in enumerate(unit.scores)),
    )
