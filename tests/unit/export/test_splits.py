"""What belongs together is on one side, and stays there."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from backend.export.data_set import DataSet, ExportedGroup, ExportedImage
from backend.export.splits import split_images


def data_of(*groups: Sequence[int | None]) -> DataSet:
    ids = sorted({number for group in groups for number in group if number is not None})
    return DataSet(
        title="",
        labels=(),
        images=[ExportedImage(number, f"{number}.jpg", (4, 4)) for number in ids],
        instances=(),
        groups=[ExportedGroup(task, (), tuple(group)) for task, group in enumerate(groups)],
        failures=(),
        left_out={},
    )


def test_tasks_that_share_an_image_are_on_one_side():
    pairs = [(2 * n + 1, 2 * n + 2) for n in range(20)]
    split = split_images(data_of(*pairs, (2, None, 3), (4, 5)), 0.3)
    val = {image.id for image in split.val}
    for pair in (*pairs, (2, 3), (4, 5)):
        assert len({number in val for number in pair}) == 1
    assert 2 <= len(val) <= 12
    assert len(split.train) + len(split.val) == 40


def test_new_tasks_move_few_images():
    pairs = [(2 * n + 1, 2 * n + 2) for n in range(50)]
    before = {image.id for image in split_images(data_of(*pairs), 0.2).val}
    after = {image.id for image in split_images(data_of(*pairs, (101, 102)), 0.2).val}
    assert len(before - after) <= 2


@pytest.mark.parametrize(
    ("share", "groups", "expected"), [(0.2, 1, 0), (0.2, 2, 1), (0.0, 9, 0), (0.9, 2, 1)]
)
def test_each_side_has_a_group_where_there_are_two(share, groups, expected):
    split = split_images(data_of(*([number] for number in range(1, groups + 1))), share)
    assert len(split.val) == expected
    assert split.train
