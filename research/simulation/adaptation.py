"""What learning from corrections gains and forgets, read off curves over corrected groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Adaptation:
    """Two curves in a few numbers, in the unit of the curves.

    Attributes:
        gain: last minus first value on new groups.
        area: mean gain over all points of the curve: early gains count more often.
        forgetting: best minus last value on held-out old labels, at least 0.
    """

    gain: float
    area: float
    forgetting: float


def sum_up(new: Sequence[float], old: Sequence[float]) -> Adaptation:
    """Sums up how an adapted model did.

    Args:
        new: a metric on the next groups, before and after each number of corrected groups.
        old: the same metric on held-out old labels, at the same points.
    """
    return Adaptation(
        gain=new[-1] - new[0],
        area=float(np.mean(new)) - new[0],
        forgetting=max(old) - old[-1],
    )
