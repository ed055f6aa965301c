"""Records that `calico corrections --export` writes can be read by our own commands."""

from __future__ import annotations

import numpy as np

from backend.cli.corrections_export import write_records
from backend.learning.correction import Correction, RegionChange, RegionOutcome
from backend.types import Task
from calico_model.data.groups import read_groups
from calico_model.types import ImageGroup, RegionKind
from tests.unit.learning.annotated import START, box, region

GROUP = ImageGroup(tuple(np.full((40, 60, 3), 90 * k, np.uint8) for k in range(2)), ("a", "b"))


def added(*regions):
    outcomes = tuple(RegionOutcome(RegionChange.ADDED, None, drawn) for drawn in regions)
    return Correction(
        task=Task(5, 7, ("a", "b")),
        annotation_id=1,
        annotator_id=1,
        updated_at=START,
        version=None,
        outcomes=outcomes,
    )


def test_a_name_marked_in_different_ways_has_one_kind_in_the_records(tmp_path):
    mask, other = box(2, 2, 30, 20), box(2, 30, 30, 50)
    correction = added(
        region("r1", mask, image=0, kind=RegionKind.COMMON_PART),
        region("r2", mask, image=1, kind=RegionKind.UNIQUE_PART),
        region("r3", other, image=1, kind=None),
    )
    folder = tmp_path / "records"
    assert write_records(folder, [correction], lambda _: GROUP, on_progress=lambda _: None) == 1
    (group,) = read_groups(folder)
    assert {(part.label, part.kind) for part in group.parts} == {("handle", RegionKind.COMMON_PART)}
    assert np.array_equal(
        next(part.mask for part in group.parts if part.image_index == 1), mask | other
    )
