"""The curve of a simulation: its points, their summary, its JSON and its picture.

The picture uses matplotlib's Figure directly, without pyplot: no window system and no global state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

_NEW, _OLD = "#2f6fb4", "#9a9a9a"


@dataclass(frozen=True)
class Point:
    """One point of the curve; metrics are strict, in percent, means of the subtasks.

    Attributes:
        corrections: groups corrected so far.
        miou, recall: on the next groups.
        old_miou, old_recall: on the base set.
        update_s: seconds of the update before this point, 0 without one.
        clicks_saved: percent of the clicks that annotating the next groups from scratch takes.
        pixels_saved: percent of the pixels that drawing their regions from scratch changes.
        version: version that predicted.
        recall_parts: percent of the true parts that a predicted region matches by label and an IoU
            of at least 0.5; the kind of part does not matter.
        wrong_per_image: predicted regions, objects included, that match no true region.
    """

    corrections: int
    miou: float
    recall: float
    old_miou: float
    old_recall: float
    update_s: float
    clicks_saved: float
    pixels_saved: float
    version: str
    recall_parts: float = 0.0
    wrong_per_image: float = 0.0


@dataclass(frozen=True)
class Adaptation:
    """Summary of two curves, in the unit of the curves.

    Attributes:
        gain: last minus first value on new groups.
        area: mean gain over all points of the curve, so that early gains count more often.
        forgetting: best minus last value on held-out old labels, at least 0.
    """

    gain: float
    area: float
    forgetting: float


@dataclass(frozen=True)
class Simulation:
    """Outcome of a simulation: the curve and its summaries.

    Attributes:
        points: by rising number of corrections.
        miou, recall: gain on the next groups and forgetting on the base set.
    """

    points: tuple[Point, ...]
    miou: Adaptation
    recall: Adaptation


def sum_up(new: Sequence[float], old: Sequence[float]) -> Adaptation:
    """Sums up a curve on new groups and a curve on old ones.

    Args:
        new: a metric on the next groups, before and after each number of corrected groups.
        old: the same metric on held-out old labels, at the same points.
    """
    return Adaptation(
        gain=new[-1] - new[0],
        area=float(np.mean(new)) - new[0],
        forgetting=max(old) - old[-1],
    )


def as_json(simulation: Simulation, domain: str) -> dict[str, object]:
    """The outcome as plain JSON values; `domain` names the groups."""
    return {
        "curve": [
            {
                "corrections": point.corrections,
                "mIoU": round(point.miou, 2),
                "Recall": round(point.recall, 2),
                "update_s": round(point.update_s, 1),
                "clicks_saved": round(point.clicks_saved, 1),
                "pixels_saved": round(point.pixels_saved, 1),
                "base_mIoU": round(point.old_miou, 2),
                "base_Recall": round(point.old_recall, 2),
                "recall_parts": round(point.recall_parts, 2),
                "wrong_per_image": round(point.wrong_per_image, 3),
                "version": point.version,
            }
            for point in simulation.points
        ],
        "forgetting": {
            "mIoU": round(simulation.miou.forgetting, 2),
            "Recall": round(simulation.recall.forgetting, 2),
        },
        "domain": domain,
    }


def draw_curve(simulation: Simulation, path: Path, *, title: str) -> None:
    """Saves strict mIoU, Recall and saved clicks over the number of corrected groups."""
    points = simulation.points
    places = range(len(points))
    panels = (
        ("strict mIoU, %", [p.miou for p in points], [p.old_miou for p in points]),
        ("Recall, %", [p.recall for p in points], [p.old_recall for p in points]),
        ("clicks saved, %", [p.clicks_saved for p in points], None),
    )
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    for axes, (name, new, old) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        axes.plot(places, new, "o-", color=_NEW, label="next groups of the domain")
        if old is not None:
            axes.plot(places, old, "s--", color=_OLD, label="base groups")
            axes.set_ylim(0, 100)
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_xticks(list(places), [str(p.corrections) for p in points])
        axes.set_xlabel("corrected groups")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title, x=0.01, ha="left")
    figure.savefig(path, dpi=120)
