"""Fixtures of the evaluation tests."""

from __future__ import annotations

from dataclasses import replace

import pytest

from calico_model.types import ComparedObject, LabeledGroup
from tests.unit.evaluation.labeled_chairs import box, chair_group


@pytest.fixture
def chairs() -> list[LabeledGroup]:
    return [chair_group(seed) for seed in range(6)]


@pytest.fixture
def mugs(chairs: list[LabeledGroup]) -> list[LabeledGroup]:
    """The same groups, with compared objects (called mugs) that are known."""
    return [
        replace(
            chair,
            objects=tuple(ComparedObject(image, "mug", box(2, 30, 2, 30)) for image in range(2)),
        )
        for chair in chairs
    ]
