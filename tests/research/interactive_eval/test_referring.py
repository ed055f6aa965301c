"""What asking by name is scored by, with an assistant whose skill is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest

from calico_model.assistant import Assistant
from calico_model.data.synthetic import SceneSplit
from calico_model.interactive.referring import Reference
from calico_model.predictor import Predictor
from calico_model.types import (
    BoolMask,
    ComparedObject,
    GroupPrediction,
    ImageGroup,
    LabeledGroup,
    PartMask,
    RegionKind,
)
from research.interactive_eval.figure import KEYS, Subject
from research.interactive_eval.text import REFERRING


def box(x0: int, x1: int) -> BoolMask:
    mask = np.zeros((20, 20), dtype=bool)
    mask[5:15, x0:x1] = True
    return mask


def part(image: int, label: str, mask: BoolMask) -> PartMask:
    return PartMask(image, RegionKind.COMMON_PART, label, mask, "chair", label)


IMAGES = tuple(np.full((20, 20, 3), k, dtype=np.uint8) for k in range(2))
GROUP = LabeledGroup(
    ImageGroup(IMAGES, ("a", "b")),
    (part(0, "leg", box(0, 8)), part(1, "leg", box(0, 8)), part(0, "seat", box(10, 18))),
    tuple(ComparedObject(k, "chair", box(0, 20)) for k in range(2)),
)


class Predicting:
    def predict(self, group: ImageGroup) -> GroupPrediction:
        return GroupPrediction((), "v")


class FindingLegs:
    """Finds half of each leg, and takes everything else for absent."""

    def refer(
        self,
        group: ImageGroup,
        names: Sequence[tuple[str, str | None]],
        group_prediction: GroupPrediction,
    ) -> tuple[Reference, ...]:
        legs = tuple(part(k, "leg", box(0, 4)) for k in range(2))
        return tuple(
            Reference(name, legs, ()) if name == "leg" else Reference(name, (), (0, 1))
            for name, _ in names
        )


@pytest.fixture
def subject() -> Subject:
    def draw(split: SceneSplit, groups: int, size: int) -> Sequence[LabeledGroup]:
        assert (split, size) == (SceneSplit.SEEN, 2)
        return [GROUP] * groups

    return Subject(
        cast(Predictor, Predicting()), cast(Assistant, FindingLegs()), draw, groups=3, seed=0
    )


def test_every_true_part_counts_and_absence_is_judged(subject: Subject) -> None:
    steps: list[int] = []
    found = REFERRING.measure(subject, steps.append)

    # Of legs half, twice; the seat is missed once and rightly absent once; two names are nowhere.
    assert found.values["referring_iou"] == pytest.approx(100 * (0.5 + 0.5 + 0.0) / 3)
    assert found.values["absent_accuracy"] == pytest.approx(100 * 7 / 8)
    assert steps == [1, 2, 3]
    assert set(REFERRING.keys) == set(found.values) <= set(KEYS)
    assert [row.value for row in found.rows][2:] == ["66.7 %", "100.0 %", "100.0 %"]
