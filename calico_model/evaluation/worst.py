"""The groups a model does worst on, kept to be looked at; the others are forgotten."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from calico_model.types import GroupPrediction, LabeledGroup


@dataclass(frozen=True, eq=False)
class WorstCase:
    """A group with a low strict mIoU.

    Attributes:
        index: of the group.
        miou: strict, in percent.
        labeled: images and truth.
        prediction: the model's own answer.
    """

    index: int
    miou: float
    labeled: LabeledGroup
    prediction: GroupPrediction


@dataclass(eq=False)
class WorstCases:
    """The `most` worst groups so far; of equally bad ones the first."""

    most: int
    _heap: list[tuple[float, int, WorstCase]] = field(default_factory=list)

    def offer(self, case: WorstCase) -> None:
        """Keeps a group if it is among the worst."""
        heapq.heappush(self._heap, (-case.miou, -case.index, case))
        if len(self._heap) > self.most:
            heapq.heappop(self._heap)

    @property
    def ranked(self) -> tuple[WorstCase, ...]:
        """The worst first."""
        return tuple(
            case for _, _, case in sorted(self._heap, key=lambda kept: (-kept[0], -kept[1]))
        )
