"""Answers about photographs: which detections are shown, and whether a part is common or unique."""

from __future__ import annotations

import numpy as np
import torch

from calico_model.inference.dense_answers import LEAST_SHOWN, answers_of_detections
from calico_model.inference.dense_detection import DenseDetections, Detection
from calico_model.types import RegionKind


def detection(label: str, image: int, chance: float, *, is_object: bool = False) -> Detection:
    nothing = torch.zeros(4, 4)
    return Detection(
        image, label, is_object, 0.8, 0.7, nothing, nothing, chance, np.ones((8, 8), bool)
    )


def shown(*detections: Detection, images: int = 2) -> dict[tuple[str, int], RegionKind]:
    answers = answers_of_detections(DenseDetections(detections), images)
    return {(segment.label, segment.image): segment.kind for segment in answers.segments}


def test_a_region_is_shown_by_its_own_chance_whatever_the_other_images_show() -> None:
    assert shown(
        detection("chair", 0, 0.9, is_object=True),
        detection("leg", 0, LEAST_SHOWN),
        detection("leg", 1, LEAST_SHOWN - 0.01),
        detection("back", 1, 0.1),
    ) == {("chair", 0): RegionKind.COMMON_OBJECT, ("leg", 0): RegionKind.COMMON_PART}


def test_a_part_of_two_images_is_common_in_a_group_of_three() -> None:
    found = shown(detection("leg", 0, 0.9), detection("leg", 2, 0.9), images=3)
    assert found == {("leg", 0): RegionKind.COMMON_PART, ("leg", 2): RegionKind.COMMON_PART}


def test_a_part_that_no_other_image_may_have_is_unique() -> None:
    found = shown(detection("arm", 0, 0.9), detection("arm", 1, 0.02), detection("leg", 1, 0.9))
    assert found == {("arm", 0): RegionKind.UNIQUE_PART, ("leg", 1): RegionKind.UNIQUE_PART}


def test_nothing_is_unique_in_a_group_of_one() -> None:
    assert shown(detection("arm", 0, 0.9), images=1) == {("arm", 0): RegionKind.COMMON_PART}


def test_objects_come_first_and_the_surest_one_has_the_parts() -> None:
    answers = answers_of_detections(
        DenseDetections(
            (
                detection("leg", 0, 0.9),
                detection("sofa", 0, 0.5, is_object=True),
                detection("chair", 0, 0.7, is_object=True),
                detection("chair", 1, 0.7, is_object=True),
            )
        ),
        2,
    )
    first, *_, last = answers.segments
    assert first.kind is RegionKind.COMMON_OBJECT
    assert (last.label, last.object_label, last.chance) == ("leg", "chair", 0.9)
    assert "chair" in answers.texts[RegionKind.COMMON_OBJECT]


def test_without_likely_detections_nothing_is_said() -> None:
    answers = answers_of_detections(DenseDetections((detection("leg", 0, 0.1),)), 2)
    assert answers.segments == []
    assert answers.phrases == ()
