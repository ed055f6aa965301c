"""What annotators did to each label, and from which score on it can be trusted."""

from __future__ import annotations

import pytest

from backend.learning.correction import ACCEPTED, RegionChange
from backend.learning.label_quality import label_qualities, suggest_threshold
from backend.learning.rows import OutcomeRow


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


def test_outcomes_are_counted_by_the_predicted_label():
    both = RegionChange.RESHAPED | RegionChange.RELABELLED
    rows = [
        row(ACCEPTED, "lid", "lid"),
        row(RegionChange.RESHAPED, "lid", "lid", iou=0.8),
        row(both, "lid", "rim", iou=0.9),
        row(RegionChange.REMOVED, "lid"),
        row(RegionChange.ADDED, None, "rim"),
        row(ACCEPTED, "knob", "knob"),
    ]
    lid, rim, knob = label_qualities(rows)
    assert (lid.label, lid.predicted, lid.accepted, lid.reshaped) == ("lid", 4, 1, 2)
    assert (lid.renamed, lid.removed, lid.added) == (1, 1, 0)
    assert (rim.label, rim.predicted, rim.added) == ("rim", 0, 1)
    assert (knob.label, knob.accepted) == ("knob", 1)


def test_the_lowest_score_from_which_on_regions_are_right_is_suggested():
    judged = [(0.3, False)] * 3 + [(0.6, True)] * 9 + [(0.9, True)] * 5
    assert suggest_threshold(judged) == pytest.approx(0.35)
    assert suggest_threshold([(0.9, True)] * 4) is None
    assert suggest_threshold([(0.9, False)] * 20) is None
    assert suggest_threshold([(0.2, True)] * 9 + [(0.2, False)]) == pytest.approx(0.05)


def test_a_mask_that_was_redrawn_is_right_if_most_of_it_stayed():
    kept = [row(RegionChange.RESHAPED, "lid", "lid", iou=0.5)] * 5
    lost = [row(RegionChange.RESHAPED, "lid", "lid", iou=0.49)] * 5
    assert label_qualities(kept)[0].threshold is not None
    assert label_qualities(lost)[0].threshold is None
