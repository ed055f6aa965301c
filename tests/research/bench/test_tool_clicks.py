"""Clicks of a simulated annotator with a click tool, against counts worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from calico_model.data.coco_parts import ANNOTATIONS_FILE
from calico_model.errors import InvalidConfigError
from calico_model.evaluation.annotator import ideal_repair
from calico_model.types import ImageGroup, LabeledGroup, PartMask, RegionKind
from research.bench.tool_clicks import (
    MOST_CLICKS,
    ImageEffort,
    TrueRegionEffort,
    bench_tool_clicks,
    effort_figures,
    measure_image,
)


def part(label, rows, *, score=1.0, kind=RegionKind.COMMON_PART):
    mask = np.zeros((20, 10), bool)
    mask[rows] = True
    return PartMask(0, kind, label, mask, score=score)


def labeled(*truth):
    image = np.zeros((20, 10, 3), np.uint8)
    return LabeledGroup(ImageGroup((image,), ("a",)), truth, frozenset(RegionKind))


def test_regions_are_corrected_renamed_or_deleted():
    group = labeled(part("wheel", slice(0, 8)), part("door", slice(8, 16)))
    shown = (
        part("wheel", slice(0, 5), score=0.9),  # IoU 5/8: one click adds the rest
        part("roof", slice(8, 16), score=0.5),  # the outline of the door, another name
        part("lamp", slice(17, 18), score=0.3),  # nothing there
    )
    effort = measure_image(group, 0, shown, lambda: ideal_repair)
    assert effort.regions == (
        TrueRegionEffort(scratch=1, score=0.9, edited=1, is_right=True),
        TrueRegionEffort(scratch=1, score=0.5, edited=1, is_right=False),
    )
    assert effort.wrong == (0.3,)


def test_the_right_name_has_the_place_before_a_larger_overlap():
    group = labeled(part("wheel", slice(0, 10)))
    shown = (part("roof", slice(0, 10)), part("wheel", slice(0, 9)))
    effort = measure_image(group, 0, shown, lambda: ideal_repair)
    assert effort.regions[0].is_right
    assert len(effort.wrong) == 1


def test_an_object_is_never_in_the_place_of_a_part():
    group = labeled(part("wheel", slice(0, 10)))
    shown = (part("wheel", slice(0, 10), kind=RegionKind.COMMON_OBJECT),)
    effort = measure_image(group, 0, shown, lambda: ideal_repair)
    assert effort.regions == (TrueRegionEffort(scratch=1),)
    assert len(effort.wrong) == 1


def test_a_tool_that_does_not_help_is_given_up():
    group = labeled(part("wheel", slice(0, 10)))
    asked = []

    def useless(mask, click):
        asked.append(click)
        return mask

    effort = measure_image(group, 0, (), lambda: useless)
    assert effort.regions[0].scratch == MOST_CLICKS == len(asked)


def test_what_is_saved_depends_on_the_score_from_which_regions_are_shown():
    right = TrueRegionEffort(scratch=5, score=0.8, edited=2, is_right=True)
    poor = TrueRegionEffort(scratch=2, score=0.25, edited=9)  # deleted and drawn anew: 4 clicks
    missing = TrueRegionEffort(scratch=3)
    figures = effort_figures([ImageEffort((right, poor), (0.35,)), ImageEffort((missing,), ())])
    # From nothing 6 + 3 + 4 = 13 clicks. All shown: 2 + 4 + 4 and one deleted.
    assert figures["clicks_saved"]["0.2"] == pytest.approx(100 * 2 / 13, abs=0.1)
    assert figures["clicks_saved"]["0.3"] == pytest.approx(100 * 3 / 13, abs=0.1)
    assert figures["clicks_saved"]["0.45"] == pytest.approx(100 * 4 / 13, abs=0.1)
    assert (figures["right_saves"], figures["break_even"]) == (4.0, 0.2)
    assert (figures["shown"], figures["wrong"], figures["regions"]) == (3, 1, 3)
    assert json.loads(json.dumps(figures)) == figures


def test_nothing_right_has_no_break_even():
    figures = effort_figures([ImageEffort((TrueRegionEffort(scratch=3),), (0.9,))])
    assert figures["right_saves"] is figures["break_even"] is None
    assert figures["clicks_saved"]["0.2"] == -25.0


def test_a_folder_without_sets_is_an_error(tmp_path):
    with pytest.raises(
        InvalidConfigError, match=f"--sets: expected folders with {ANNOTATIONS_FILE}"
    ):
        bench_tool_clicks(tmp_path)
    (tmp_path / ANNOTATIONS_FILE).write_text("{}")
    with pytest.raises(InvalidConfigError, match=f"a set itself: .* --only {tmp_path.name}$"):
        bench_tool_clicks(tmp_path)
