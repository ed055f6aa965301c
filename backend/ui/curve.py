"""The learning curve as points of an SVG, which templates/curve.html draws.

Pure: figures in, coordinates and words out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backend.learning.overview import VersionQuality

WIDTH, HEIGHT = 720, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 16, 12, 28
_MOST_LABELS = 12


@dataclass(frozen=True)
class CurvePoint:
    """One version on one line.

    Attributes:
        x, y: position in units of the drawing.
        text: tooltip.
    """

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class CurveLine:
    """One figure over all versions.

    Attributes:
        name: CSS class.
        label: legend.
        dots: oldest version first.
    """

    name: str
    label: str
    dots: tuple[CurvePoint, ...]

    @property
    def points(self) -> str:
        """Value of the attribute `points` of an SVG polyline."""
        return " ".join(f"{dot.x:g},{dot.y:g}" for dot in self.dots)


@dataclass(frozen=True)
class Curve:
    """The whole drawing.

    Attributes:
        lines: IoU and acceptance.
        ticks: (y, percent) of the vertical axis.
        names: (x, number of the version) of the horizontal axis.
        summary: alternative text, one sentence.
    """

    lines: tuple[CurveLine, ...]
    ticks: tuple[tuple[float, int], ...]
    names: tuple[tuple[float, int], ...]
    summary: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT


def draw_curve(qualities: Sequence[VersionQuality]) -> Curve | None:
    """Returns the curve of prediction quality per version; None before the second version."""
    if len(qualities) < 2:
        return None
    step = (WIDTH - _LEFT - _RIGHT) / (len(qualities) - 1)
    positions = [round(_LEFT + step * number, 1) for number in range(len(qualities))]

    def line(name: str, label: str, value: Callable[[VersionQuality], float]) -> CurveLine:
        return CurveLine(
            name,
            label,
            tuple(
                CurvePoint(
                    x, _height(value(quality)), f"{quality.version}: {label} {value(quality):.0%}"
                )
                for x, quality in zip(positions, qualities, strict=True)
            ),
        )

    every = -(-len(qualities) // _MOST_LABELS)
    first, last = qualities[0], qualities[-1]
    return Curve(
        lines=(
            line("iou", "mask IoU", lambda quality: quality.iou),
            line("acceptance", "regions accepted", lambda quality: quality.acceptance),
        ),
        ticks=tuple((_height(percent / 100), percent) for percent in (0, 25, 50, 75, 100)),
        names=tuple((x, number + 1) for number, x in enumerate(positions) if number % every == 0),
        summary=(
            f"Over {len(qualities)} versions, mask IoU before correction went from "
            f"{first.iou:.0%} to {last.iou:.0%} and accepted regions from "
            f"{first.acceptance:.0%} to {last.acceptance:.0%}."
        ),
    )


def _height(share: float) -> float:
    """y of a share in [0, 1], in units of the drawing."""
    inside = HEIGHT - _TOP - _BOTTOM
    return round(_TOP + inside * (1 - min(max(share, 0.0), 1.0)), 1)
