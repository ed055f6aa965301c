"""The adaptation curve as a picture.

Uses matplotlib's Figure directly: no pyplot, so no window system and no global state.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from research.simulation.protocol import Simulation

_NEW, _OLD = "#2f6fb4", "#9a9a9a"


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
