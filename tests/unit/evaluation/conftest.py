"""Fixtures of the evaluation tests."""

from __future__ import annotations

import pytest
from labeled_chairs import chair_group

from calico_model.types import LabeledGroup


@pytest.fixture
def chairs() -> list[LabeledGroup]:
    return [chair_group(seed) for seed in range(6)]
