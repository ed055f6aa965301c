"""Figures of scores and truth, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from calico_model.data.coco_parts import ANNOTATIONS_FILE
from calico_model.errors import InvalidConfigError, InvalidRecordError
from calico_model.types import GroupPrediction, ImageGroup, LabeledGroup, PartMask, RegionKind
from research.bench.review import (
    ScoredRegion,
    bench_review,
    judge,
    rank_correlation,
    review_figures,
)

KINDS = frozenset(RegionKind)


def regions(*pairs):
    return [ScoredRegion(score, iou, "wheel", is_object=False) for score, iou in pairs]


def test_ranks_with_ties_share_their_mean():
    first, second = np.array([1.0, 2.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.2, 0.9])
    assert rank_correlation(first, second) == pytest.approx(1.0)
    assert rank_correlation(first, -second) == pytest.approx(-1.0)
    # Ranks 0, 1.5, 1.5, 3 and 3, 0, 1, 2.
    other = np.array([4.0, 1.0, 2.0, 3.0])
    expected = np.corrcoef([0, 1.5, 1.5, 3], [3, 0, 1, 2])[0, 1]
    assert rank_correlation(first, other) == pytest.approx(expected)
    assert rank_correlation(first, np.ones(4)) is None


def test_the_lowest_fifth_is_compared_with_the_highest():
    wrong_low = regions((0.1, 0.0), (0.15, 0.2), (0.2, 0.9))
    middle = regions(*[(0.5 + n / 100, 0.6) for n in range(9)])
    high = regions((0.9, 0.4), (0.95, 0.9), (0.99, 0.8))
    figures = review_figures([*high, *middle, *wrong_low])
    assert (figures["regions"], figures["wrong_lowest"]) == (15.0, 0.667)
    assert (figures["wrong_highest"], figures["times_wrong"]) == (0.333, 2.0)


def test_nothing_can_be_said_of_nothing():
    figures = review_figures([])
    assert figures["regions"] == 0.0
    assert {value for name, value in figures.items() if name != "regions"} == {None}


def test_a_region_counts_by_its_name_whatever_kind_of_part_it_is():
    def part(kind, label, rows, image=0):
        mask = np.zeros((10, 10), bool)
        mask[rows] = True
        return PartMask(image, kind, label, mask, score=0.7)

    truth = (
        part(RegionKind.COMMON_PART, "wheel", slice(0, 4)),
        part(RegionKind.COMMON_OBJECT, "car", slice(0, 10)),
    )
    image = np.zeros((10, 10, 3), np.uint8)
    labeled = LabeledGroup(ImageGroup((image, image), ("a", "b")), truth, KINDS)
    predicted = (
        part(RegionKind.UNIQUE_PART, "Wheel", slice(0, 2)),
        part(RegionKind.COMMON_PART, "wheel", slice(0, 4), image=1),
        part(RegionKind.COMMON_PART, "car", slice(0, 10)),
    )
    found = judge(GroupPrediction(predicted, "v"), labeled)
    assert [one.iou for one in found] == [0.5, 0.0, 0.0]
    assert [one.is_right for one in found] == [True, False, False]
    # Where nobody outlined all parts, only what lies in the outline of another part is wrong.
    renamed = part(RegionKind.COMMON_PART, "door", slice(0, 7))
    prediction = GroupPrediction((*predicted, renamed), "v")
    assert [one.iou for one in judge(prediction, labeled)] == [0.5, 0.0, 0.0, 0.0]
    left = judge(prediction, labeled, is_complete=False)
    assert [(one.label, one.iou) for one in left] == [("Wheel", 0.5), ("door", 0.0)]


@pytest.mark.parametrize("option", ["--only", "--incomplete"])
def test_a_set_that_is_not_there_is_named(option, tmp_path):
    (tmp_path / "cars").mkdir()
    (tmp_path / "cars" / ANNOTATIONS_FILE).write_text("{}")
    given = {option.removeprefix("--"): ["cars", "boats"]}
    with pytest.raises(InvalidConfigError, match=rf"{option}: .*\(cars\), got boats"):
        bench_review(tmp_path, **given)


def test_what_cannot_be_read_or_written_is_named_before_anything_is_learned(tmp_path):
    with pytest.raises(InvalidConfigError, match="--sets: expected folders with annotations.json"):
        bench_review(tmp_path)
    (tmp_path / "cars").mkdir()
    (tmp_path / "cars" / ANNOTATIONS_FILE).write_text("{}")
    with pytest.raises(InvalidConfigError, match="--regions: expected a file in a folder"):
        bench_review(tmp_path, regions=tmp_path / "nowhere" / "regions.json")
    with pytest.raises(InvalidRecordError, match=f"{tmp_path / 'cars'}: annotations.json: "):
        bench_review(tmp_path)
