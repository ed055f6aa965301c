"""From which score on the regions of a label were right."""

from __future__ import annotations

import pytest

from backend.learning.correction import ACCEPTED, RegionChange
from backend.learning.rows import OutcomeRow
from backend.learning.score_thresholds import label_thresholds, suggest_threshold
from calico_model.vocabulary import Vocabulary


def row(change, before=None, after=None, *, score=0.9, iou=None):
    return OutcomeRow(
        task_id=1,
        image_index=0,
        region_id="r",
        change=change,
        iou=iou,
        boundary_f=None,
        boundary_px=None,
        score=None if before is None else score,
        kind_before=None,
        kind_after=None,
        label_before=before,
        label_after=after,
        replaced_by=None,
    )


def test_the_lowest_score_from_which_on_regions_are_right_is_suggested():
    judged = [(0.3, False)] * 3 + [(0.6, True)] * 9 + [(0.9, True)] * 5
    assert suggest_threshold(judged) == pytest.approx(0.35)
    assert suggest_threshold([(0.9, True)] * 4) is None
    assert suggest_threshold([(0.9, False)] * 20) is None
    assert suggest_threshold([(0.2, True)] * 9 + [(0.2, False)]) == pytest.approx(0.05)


def test_each_predicted_label_has_a_threshold_of_its_own():
    rows = [row(ACCEPTED, "lid", "lid")] * 5 + [row(RegionChange.REMOVED, "rim")] * 5
    rows += [row(RegionChange.ADDED, None, "knob")] * 5
    assert set(label_thresholds(rows)) == {"lid"}


def test_what_a_label_was_called_before_counts_as_the_label():
    rows = [row(ACCEPTED, "lid", "cover")] * 3 + [row(ACCEPTED, "cover", "cover")] * 2
    assert label_thresholds(rows) == {}  # five of one label are needed
    vocabulary = Vocabulary(("cover",), {"lid": "cover"})
    assert label_thresholds(rows, vocabulary) == {"cover": pytest.approx(0.05)}


def test_a_mask_that_was_redrawn_is_right_if_most_of_it_stayed():
    kept = [row(RegionChange.RESHAPED, "lid", "lid", iou=0.5)] * 5
    lost = [row(RegionChange.RESHAPED, "lid", "lid", iou=0.49)] * 5
    assert label_thresholds(kept) == {"lid": pytest.approx(0.05)}
    assert label_thresholds(lost) == {}
