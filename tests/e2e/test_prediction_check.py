"""The verification behind `calico demo --check` finds what is wrong."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from backend.cli.connect import Ends
from backend.cli.demo import Demo
from backend.cli.demo_project import check_predictions
from backend.label_studio.brush import encode_mask
from backend.label_studio.client import LabelStudioProject
from backend.label_studio.group_config import open_config
from tests.e2e.studio_api import delete_project

pytestmark = pytest.mark.e2e

SIZE = 384


@pytest.fixture
def project(demo: Demo, ends: Ends) -> Iterator[LabelStudioProject]:
    """One task with the images of the first sample group, without a prediction."""
    project = ends.client.create_project("check", open_config())
    (task, *_) = ends.client.raw_tasks(demo.project_id)
    ends.client.import_tasks(project.id, [{"data": task["data"]}])
    yield project
    delete_project(ends.client, project.id)


def predict(ends: Ends, project: LabelStudioProject, mask_size: int) -> None:
    mask = np.zeros((mask_size, mask_size), bool)
    mask[:9, :9] = True
    result = {
        "id": "region",
        "type": "brush",
        "from_name": "mask_0",
        "to_name": "image_0",
        "original_width": mask_size,
        "original_height": mask_size,
        "value": {"format": "rle", "rle": encode_mask(mask)},
    }
    (task,) = ends.client.raw_tasks(project.id)
    ends.client.create_prediction(
        int(str(task["id"])), msgspec.json.encode([result]), score=0.5, version="by hand"
    )


def test_a_mask_of_the_right_size_is_counted(
    demo: Demo, ends: Ends, project: LabelStudioProject
) -> None:
    predict(ends, project, SIZE)
    tally = check_predictions(ends.client, project.id, demo.files)
    assert (tally.tasks, tally.regions, tally.problems) == (1, 1, ())


def test_a_mask_of_another_size_is_found(
    demo: Demo, ends: Ends, project: LabelStudioProject
) -> None:
    predict(ends, project, SIZE // 2)
    tally = check_predictions(ends.client, project.id, demo.files)
    assert tally.tasks == 0
    assert "expected a mask of (384, 384)" in tally.problems[0]


def test_a_task_without_prediction_is_found(
    demo: Demo, ends: Ends, project: LabelStudioProject
) -> None:
    tally = check_predictions(ends.client, project.id, demo.files)
    assert tally.tasks == 0
    assert "no prediction" in tally.problems[0]
