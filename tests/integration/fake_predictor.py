"""The one stand-in for the model in HTTP tests: rectangles, at once or when the test says so."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np

from calico_model.types import GroupPrediction, ImageGroup, PartMask, RegionKind
from tests.doubles import ModelDouble


@dataclass
class FakePredictor(ModelDouble):
    """Sees a "box" in the middle of every image, with a "lid" above it, and one unique "knob".

    Attributes:
        version: what it stamps on its predictions.
        gate: a prediction waits until it is set.
        asked: how many predictions were begun.
        seen: sizes of the groups it looked at, in order.
        fails_on: a group whose first image is this wide raises.
    """

    version: str = "fake-00000001"
    gate: threading.Event = field(default_factory=threading.Event)
    asked: int = 0
    seen: list[tuple[tuple[int, int], ...]] = field(default_factory=list)
    fails_on: int | None = None

    def __post_init__(self) -> None:
        self.gate.set()

    def predict(self, group: ImageGroup) -> GroupPrediction:
        self.asked += 1
        self.gate.wait(30)
        self.seen.append(group.sizes_hw)
        if group.sizes_hw[0][1] == self.fails_on:
            raise RuntimeError("the network broke")
        parts = [
            part
            for index, size_hw in enumerate(group.sizes_hw)
            for part in (
                _part(index, size_hw, RegionKind.COMMON_OBJECT, "box", (0.25, 0.75), "p0"),
                _part(index, size_hw, RegionKind.COMMON_PART, "lid", (0.25, 0.4), "p1"),
            )
        ]
        parts.append(_part(0, group.sizes_hw[0], RegionKind.UNIQUE_PART, "knob", (0.1, 0.2), None))
        return GroupPrediction(parts=tuple(parts), version=self.version)


def _part(
    image_index: int,
    size_hw: tuple[int, int],
    kind: RegionKind,
    label: str,
    rows: tuple[float, float],
    part_id: str | None,
) -> PartMask:
    height, width = size_hw
    mask = np.zeros(size_hw, np.bool_)
    mask[int(rows[0] * height) : max(int(rows[1] * height), 1), width // 4 : width * 3 // 4 + 1] = 1
    return PartMask(image_index, kind, label, mask, "box", part_id, 0.75)
