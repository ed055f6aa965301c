"""Prompts of an annotator: clicks, a box, and the earlier mask to correct.

Values in pixels of the original image. Knows arrays; not tensors or the network's frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from calico_model.errors import InvalidMaskError
from calico_model.types import BoolMask

Box = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in pixels of the original image."""


@dataclass(frozen=True)
class Click:
    """One click, in pixels of the original image; pixel p spans [p, p + 1).

    Attributes:
        x, y: position; a click outside the image counts as one on its edge.
        is_positive: False for a place that does not belong to the mask.
    """

    x: float
    y: float
    is_positive: bool = True

    def pixel(self, size_hw: tuple[int, ...]) -> tuple[int, int]:
        """Returns row and column of the pixel under it, of the edge for a click outside."""
        height, width = size_hw
        return min(max(int(self.y), 0), height - 1), min(max(int(self.x), 0), width - 1)


@dataclass(frozen=True, eq=False)
class MaskPrompt:
    """A prompt for one mask of one image: at least a click or a box.

    Attributes:
        clicks: in the order they were made.
        box: around the mask, or None.
        previous: (H, W) bool, the earlier mask to correct, or None.
        corrects_region: whether the first click was made on a region that was there already. Else
            the earlier mask is what the clicks before the last one meant.

    Raises:
        InvalidMaskError: there is neither a click nor a box, or a number is not finite.
    """

    clicks: tuple[Click, ...] = ()
    box: Box | None = None
    previous: BoolMask | None = None
    corrects_region: bool = False

    def __post_init__(self) -> None:
        if not self.clicks and self.box is None:
            raise InvalidMaskError("prompt: expected a click or a box")
        numbers = [value for click in self.clicks for value in (click.x, click.y)]
        if not all(math.isfinite(value) for value in (*numbers, *(self.box or ()))):
            raise InvalidMaskError(
                f"prompt: expected finite numbers, got clicks {self.clicks}, box {self.box}"
            )

    @property
    def is_ambiguous(self) -> bool:
        """Whether the prompt is a lone click or box, which may mean things of several sizes."""
        return self.previous is None and len(self.clicks) + (self.box is not None) == 1
