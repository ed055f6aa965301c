"""What speaks for a detection, before MobileSAM drew its mask and after."""

from __future__ import annotations

import math

import pytest

from calico_model.inference.dense_answers import LEAST_SHOWN
from calico_model.inference.detection_odds import (
    DetectionEvidence,
    EdgeEvidence,
    chance_with_edges,
)
from calico_model.inference.segments import Segment
from calico_model.types import RegionKind


def evidence(is_object: bool, **changed: float | None) -> DetectionEvidence:
    usual: dict[str, float | None] = {"overlap": 0.8, "certainty": 0.8, "peak": 0.9} | {
        "elsewhere": 0.7,
        "images": 20,
        "seen": 10,
        "names": 8,
    }
    return DetectionEvidence(is_object=is_object, **(usual | changed))  # type: ignore[arg-type]


@pytest.mark.parametrize("is_object", [True, False])
def test_what_looks_surer_is_right_more_often(is_object: bool) -> None:
    chances = [k / 20 for k in range(21)]
    odds = [evidence(is_object, overlap=x, certainty=x, peak=x).log_odds_right() for x in chances]
    assert odds == sorted(odds)
    assert odds[0] < math.log(LEAST_SHOWN / (1 - LEAST_SHOWN)) < odds[-1]
    usual = evidence(is_object).log_odds_right()
    for more in ({"images": 40, "seen": 20}, {"elsewhere": 0.9}, {"overlap": 0.9}):
        assert evidence(is_object, **more).log_odds_right() > usual


@pytest.mark.parametrize("is_object", [True, False])
def test_a_group_of_one_image_is_judged_like_a_usual_group(is_object: bool) -> None:
    alone = evidence(is_object, elsewhere=None).log_odds_right()
    missed, shown = (evidence(is_object, elsewhere=k).log_odds_right() for k in (0.0, 1.0))
    assert missed < alone < shown


def test_a_part_of_rare_name_is_less_likely_right() -> None:
    assert evidence(False, seen=1).log_odds_right() < evidence(False, seen=10).log_odds_right()
    assert evidence(False, seen=0).log_odds_right() == evidence(False, seen=1).log_odds_right()


@pytest.mark.parametrize("is_object", [True, False])
def test_a_mask_that_fits_edges_is_right_more_often(is_object: bool) -> None:
    def chance(before: float, iou: float, agreement: float) -> float:
        return chance_with_edges(before, EdgeEvidence(iou, agreement), is_object=is_object)

    steps = [k / 20 for k in range(21)]
    for rising in (
        [chance(x, 0.8, 0.8) for x in steps],
        [chance(0.5, x, 0.8) for x in steps],
        [chance(0.5, 0.8, x) for x in steps],
    ):
        assert rising == sorted(rising)
        assert 0 < rising[0] < rising[-1] < 1
    assert chance(0.5, 0.95, 0.95) > 0.5 > chance(0.5, 0.5, 0.3)


def test_the_score_of_a_region_knows_edges_only_where_they_were_asked() -> None:
    edges = EdgeEvidence(0.9, 0.9)
    for kind in RegionKind:
        told = Segment(kind, "wheel", 0, None, None, 0.7, chance=0.6)
        assert told.score == 0.6
        drawn = Segment(kind, "wheel", 0, None, None, 0.7, chance=0.6, edges=edges)
        is_object = kind is RegionKind.COMMON_OBJECT
        assert drawn.score == chance_with_edges(0.6, edges, is_object=is_object)
    assert Segment(RegionKind.COMMON_PART, "wheel", 0, None, None, 0.7).score is None
