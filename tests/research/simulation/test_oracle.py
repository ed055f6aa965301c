"""What correcting a prediction into the truth teaches."""

from __future__ import annotations

import numpy as np

from calico_model.types import (
    GroupPrediction,
    ImageGroup,
    LabeledGroup,
    PartMask,
    RegionKind,
    Supervision,
)
from research.simulation.oracle import oracle_targets
from tests.unit.training.examples import SIZE_PX, part

KIND = RegionKind.COMMON_PART
HERE, WIDER, ELSEWHERE = (8, 24, 8, 24), (8, 24, 8, 30), (40, 60, 40, 60)


def taught(truth: list[PartMask], predicted: list[PartMask]) -> list[tuple[str, Supervision]]:
    image = np.zeros((SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    labeled = LabeledGroup(ImageGroup((image,), ("a",)), tuple(truth), known=frozenset({KIND}))
    targets = oracle_targets(labeled, GroupPrediction(tuple(predicted), "v"))
    return [(target.region.label, target.supervision) for target in targets]


def test_a_right_region_is_rehearsed() -> None:
    assert taught([part("wheel")], [part("wheel")]) == [("wheel", Supervision.REHEARSAL)]


def test_a_wrong_name_teaches_text() -> None:
    assert taught([part("wheel")], [part("door")]) == [("wheel", Supervision.TEXT)]


def test_a_wrong_shape_teaches_the_mask() -> None:
    truth, predicted = [part("wheel", box=HERE)], [part("wheel", box=WIDER)]
    assert taught(truth, predicted) == [("wheel", Supervision.MASK)]


def test_wrong_in_both_teaches_both() -> None:
    truth, predicted = [part("wheel", box=HERE)], [part("door", box=WIDER)]
    assert taught(truth, predicted) == [("wheel", Supervision.TEXT | Supervision.MASK)]


def test_missing_and_superfluous_regions() -> None:
    truth, predicted = [part("wheel", box=HERE)], [part("door", box=ELSEWHERE)]
    assert taught(truth, predicted) == [
        ("wheel", Supervision.TEXT | Supervision.MASK),
        ("door", Supervision.ABSENCE),
    ]


def test_nothing_is_said_about_unknown_questions() -> None:
    assert taught([], [part("wheel", kind=RegionKind.UNIQUE_PART)]) == []
