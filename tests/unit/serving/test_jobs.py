"""Keys of kept answers: what an earlier release has stored is found again."""

from __future__ import annotations

import pytest

from backend.label_studio.label_config import parse_label_config
from backend.serving.jobs import PredictionJob, answer_key
from backend.types import Task
from tests.unit.label_studio.golden_files import config

# Computed by release 0.1.0 before its classes were renamed.
STORED = {
    "cosegment_labels": "eb503bc6dfd8f5dac0cfa6c8e1312e6976966627e7590eabfffad83fb2b79d05",
    "cosegment_open": "cc827f7ae33575fed6e6b291bbd7954a2b73fb744ed09a36682a598daf821c13",
}


@pytest.mark.parametrize("name", sorted(STORED))
def test_keys_of_kept_answers_do_not_depend_on_the_names_of_classes(name: str) -> None:
    job = PredictionJob(Task(3, 7, ("a.png", "b.png")), parse_label_config(config(name)))
    assert answer_key(job, "c", version="v", code="x") == STORED[name]
