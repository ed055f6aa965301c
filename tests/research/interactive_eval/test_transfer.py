"""What exemplar transfer and alike parts are scored by, with assistants whose skill is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest

from calico_model.assistant import Assistant
from calico_model.data.synthetic import SceneSplit
from calico_model.interactive.propagate.transfer import Proposal
from calico_model.predictor import Predictor
from calico_model.types import (
    BoolMask,
    GroupPrediction,
    ImageGroup,
    LabeledGroup,
    PartMask,
    RegionKind,
)
from research.interactive_eval.exemplar import EXEMPLAR
from research.interactive_eval.figure import Subject
from research.interactive_eval.repeated import MIN_SHARE, REPEATED, pieces

SIDE = 40


def box(x0: int, y0: int, x1: int, y1: int) -> BoolMask:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


LEGS = box(2, 10, 10, 30) | box(20, 10, 28, 30)
SEAT = box(2, 2, 30, 8)


def part(image: int, label: str, mask: BoolMask, kind: RegionKind | None = None) -> PartMask:
    return PartMask(image, kind or RegionKind.COMMON_PART, label, mask, "chair", label)


@pytest.fixture
def labeled() -> LabeledGroup:
    """Legs on all four images, a seat on the first alone."""
    images = tuple(np.full((SIDE, SIDE, 3), k, dtype=np.uint8) for k in range(4))
    legs = [part(k, "leg", LEGS) for k in range(4)]
    seat = part(0, "seat", SEAT, RegionKind.UNIQUE_PART)
    return LabeledGroup(ImageGroup(images, ("a", "b", "c", "d")), (*legs, seat))


class Predicting:
    """Says of every image that half of the legs are there."""

    def predict(self, group: ImageGroup) -> GroupPrediction:
        return GroupPrediction(
            tuple(part(k, "leg", box(2, 10, 10, 30)) for k in range(len(group))), "v"
        )


class InteractiveSegmenter:
    """Draws legs everywhere, knows where seats are, and outlines one leg after the other."""

    def transfer(
        self, group: ImageGroup, outlined: PartMask, group_prediction: GroupPrediction
    ) -> tuple[Proposal, ...]:
        shown = outlined.label == "leg"
        return tuple(Proposal(k, (part(k, "leg", LEGS),) if shown else (), 1.0) for k in (1, 2, 3))

    def other_pieces(
        self,
        group: ImageGroup,
        image_index: int,
        label: str,
        approved: Sequence[BoolMask],
        group_prediction: GroupPrediction,
        *,
        most: int | None = None,
        remembers: bool = True,
    ) -> tuple[tuple[BoolMask, float], ...]:
        if not remembers:
            return ((LEGS, 1.0),)
        return tuple((one, 1.0) for one in pieces(LEGS)[len(approved) :][:most])


@pytest.fixture
def subject(labeled: LabeledGroup) -> Subject:
    def draw(split: SceneSplit, groups: int, size: int) -> Sequence[LabeledGroup]:
        return [labeled] * groups

    predictor, assistant = cast(Predictor, Predicting()), cast(Assistant, InteractiveSegmenter())
    return Subject(predictor, assistant, draw, groups=2, seed=0)


def test_transfer_is_scored_where_the_part_is_and_against_the_model_alone(
    subject: Subject,
) -> None:
    steps: list[int] = []
    found = EXEMPLAR.measure(subject, steps.append)
    assert found.values == {
        "exemplar_iou": 100.0,
        "exemplar_gain_unseen": 50.0,
        "absent_accuracy": 100.0,
    }
    assert found.rows[-1].value == "12 of 12"  # seats: 3 images, 2 groups, 2 splits
    assert steps == list(range(1, EXEMPLAR.steps(subject) + 1))


def test_alike_parts_are_scored_one_by_one_with_memory_and_without(subject: Subject) -> None:
    found = REPEATED.measure(subject, lambda done: None)
    assert found.values == {"repeated_iou": 1.0, "repeated_iou_without_memory": 0.5}
    assert found.rows[0].name == "2 to 4 alike parts (8)"


def test_pieces_leave_out_specks_and_come_largest_first() -> None:
    first, second = pieces(LEGS | box(35, 10, 39, 30) | box(0, 39, 1, 40))[:2]
    assert first.sum() == second.sum() == 160
    assert len(pieces(LEGS | box(0, 39, 1, 40))) == 2
    assert pieces(np.zeros((4, 4), dtype=bool)) == []
    assert pieces(LEGS)[0].mean() > MIN_SHARE
