"""The counted costs as a picture: the parts of each way, and the group sizes.

Uses matplotlib's Figure directly: no pyplot, so no window system and no global state.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.cost.page import headline
from research.cost.pipelines import DECODE, IMAGE_STAGES, MASKS, PREFILL, Comparison, Way

_GROUPS = (
    ("SAM encoder", ("SAM encoder",), "#7f8c8d"),
    ("other encoders", tuple(set(IMAGE_STAGES) - {"SAM encoder"}), "#b9c3c9"),
    ("LLM prefill, CAMs", (PREFILL,), "#2f6fb4"),
    ("LLM decode", (DECODE,), "#9dc1e3"),
    ("mask decoder", (MASKS,), "#c0392b"),
)  # fmt: skip


def cost_chart(comparisons: Sequence[Comparison], path: Path, *, title: str) -> None:
    """Saves the pair part by part, and all group sizes way by way, as .svg or .png."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _parts(left, headline(comparisons))
    _sizes(right, comparisons)
    figure.suptitle(title, x=0.01, ha="left")
    # Without these, every run writes another file for the same numbers.
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with rc_context({"svg.hashsalt": "calico"}):
        figure.savefig(path, dpi=120, metadata=metadata)


def _parts(axes: Axes, shown: Comparison) -> None:
    ways = {
        "GLaMM's way,\nthree runs": shown.glamm_style,
        "CALICO,\nthree runs": shown.separate,
        "ours": shown.ours,
    }
    below = [0.0] * len(ways)
    for label, stages, colour in _GROUPS:
        heights = [_tera(way, stages) for way in ways.values()]
        axes.bar(list(ways), heights, 0.6, bottom=below, color=colour, label=label)
        below = [a + b for a, b in zip(below, heights, strict=True)]
    for place, height in enumerate(below):
        axes.text(place, height, f"{height:.3g}", ha="center", va="bottom")
    axes.set_title(f"three questions, {shown.workload.images} images", fontsize=10)
    axes.set_ylabel("TFLOPs")
    axes.legend(fontsize=8, frameon=False)


def _tera(way: Way, stages: Sequence[str]) -> float:
    chosen = set(stages)
    if PREFILL in chosen:
        chosen |= {stage for stage in way.stages if stage.startswith("CAM ")}
    return sum(flops for stage, flops in way.stages.items() if stage in chosen) / 1e12


def _sizes(axes: Axes, comparisons: Sequence[Comparison]) -> None:
    images = [c.workload.images for c in comparisons]
    for label, ways, colour in (
        ("GLaMM's way, three runs", [c.glamm_style for c in comparisons], "#7f8c8d"),
        ("CALICO, three runs", [c.separate for c in comparisons], "#9dc1e3"),
        ("ours", [c.ours for c in comparisons], "#2f6fb4"),
    ):
        axes.plot(images, [way.total / 1e12 for way in ways], "o-", color=colour, label=label)
    axes.set_title("by group size", fontsize=10)
    axes.set_xlabel("images")
    axes.set_xticks(images)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
